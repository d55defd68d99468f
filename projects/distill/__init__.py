"""Knowledge distillation: small networks taught by larger ones, with alpha as the independent variable."""

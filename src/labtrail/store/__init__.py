"""Where runs live: the tracking store, locks of the working folder, copies between stores."""

"""Word-level sign recognition from skeletons (SPOTER, Bohacek & Hruz, WACV-W 2022)."""

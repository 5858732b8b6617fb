"""What is claimed about speed, as programs: `wsss bench NAME`."""

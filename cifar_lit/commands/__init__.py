"""What each `cifar-lit` command does: `run(args)` gets the command line from the command's name on."""

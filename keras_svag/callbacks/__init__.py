"""What hangs into `fit`: the check of a scaling rule and its report."""

"""Another batch size, tried by short trainings."""

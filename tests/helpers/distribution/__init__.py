"""Checks that run on several replicas, in a process of their own."""

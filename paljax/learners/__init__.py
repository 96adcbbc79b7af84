"""Learners: pure pairs of init and step, and the fit of new users."""

"""The policy stage: groups' rewards from a reward run, and policies for the worst-off group."""

//! Two controllers, and an operator who is asked.

//! Rates, rails and choices one at a time.

"""Many runs that differ in a few options: what is done of them, and one page to compare them."""

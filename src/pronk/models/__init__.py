"""Model families behind one forward; needs torch alone."""

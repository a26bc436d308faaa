"""How good an analysis is: phantoms with exact truth and the measures on them."""

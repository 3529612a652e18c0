"""Change the layers of a model that exists: put batch norm in, or swap it for another layer and back."""

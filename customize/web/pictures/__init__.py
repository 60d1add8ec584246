"""What the pages of pictures are made of: the form that generates them, their gallery, and what is shown of them."""

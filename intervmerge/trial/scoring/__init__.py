"""How a student, its teachers, and the models that it is compared with do on images of a split."""

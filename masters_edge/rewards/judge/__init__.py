"""R_acc by a language model (METHOD 5): what it is asked, how its answer is read, who answers, what is kept."""

"""What there is: answers about models that need no model, in milliseconds, whatever the card does."""

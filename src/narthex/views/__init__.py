"""What people and programs read: text, JSON, pages. No step knows them."""

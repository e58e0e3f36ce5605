"""The story world: small seeded children's stories, requests for them, and a checker that reads a story back."""

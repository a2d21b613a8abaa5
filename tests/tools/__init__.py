"""What tests run against: images, registries, clients and the mirror as processes of their own."""

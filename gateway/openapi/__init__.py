"""The OpenAPI document of what clients with a tenant's key may ask."""

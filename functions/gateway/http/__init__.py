"""HTTP at API Gateway: requests, responses and problems."""

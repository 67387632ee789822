"""HTTP as API Gateway hands it to a function: requests in, answers and problems out."""

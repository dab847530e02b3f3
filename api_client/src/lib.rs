//! Request and response types of the REST API, and a blocking client.

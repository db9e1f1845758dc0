//! Request, object, SQLite, event: the API server.

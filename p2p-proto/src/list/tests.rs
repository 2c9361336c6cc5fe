//! Lists, shapes and cuts against single bytes.

//! Names of attempts.

/// A name that no other attempt has. It begins with the time, so that it says how old a part is.
pub fn id() -> String {
    uuid::Uuid::now_v7().simple().to_string()
}

//! What goes wrong at the edge: one sentence, what caused it, and the cure where there is one.

use std::error::Error as StdError;

use crate::failure::Failure;

/// An error of the kernel edge. Its sources are one level each; [`Error::cure`] says what to do.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    message: String,
    cure: Option<String>,
    #[source]
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// Shorthand of this module tree.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Says what was wrong, and where.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), cure: None, source: None }
    }

    /// Adds what caused it.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn cure(mut self, cure: impl Into<String>) -> Self {
        self.cure = Some(cure.into());
        self
    }

    /// Adds what to do about it, if that is known.
    #[must_use]
    pub fn maybe_cure(mut self, cure: Option<impl Into<String>>) -> Self {
        self.cure = cure.map(Into::into);
        self
    }

    /// `what` on the host is not as the plan expects it.
    pub fn changed_since(what: &str, expected: &str, found: &str) -> Self {
        Self::new(format!(
            "{what}: somebody changed it since it was looked at: expected {expected}, found {found}"
        ))
        .cure("nothing was done to it; plan again, so that the plan starts from what is there now")
    }

    /// As it is sent to the controller.
    pub fn to_failure(&self) -> Failure {
        Failure { cure: self.cure.clone(), ..Failure::from_error(self) }
    }
}

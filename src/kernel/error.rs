//! Errors of the kernel edge: one sentence, its cause, and the cure where there is one.

use std::error::Error as StdError;

use crate::failure::Failure;

/// An error of the kernel edge. Its `source` is the cause; [`Error::cure`] is what the operator can do.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    message: String,
    cure: Option<String>,
    #[source]
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// Result of functions of this module tree and of the agent.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// `message`: what failed, and on which object.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), cure: None, source: None }
    }

    /// Adds the cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Adds what the operator can do.
    #[must_use]
    pub fn cure(mut self, cure: impl Into<String>) -> Self {
        self.cure = Some(cure.into());
        self
    }

    /// Adds what the operator can do, if that is known.
    #[must_use]
    pub fn maybe_cure(mut self, cure: Option<impl Into<String>>) -> Self {
        self.cure = cure.map(Into::into);
        self
    }

    /// `what` on the host has not the value that the plan was made from. It was not touched.
    pub fn changed_since(what: &str, expected: &str, found: &str) -> Self {
        Self::new(format!(
            "{what} changed after it was observed: expected {expected}, found {found}"
        ))
        .cure("lvsprov did not change it; plan again: the new plan starts from its present value")
    }

    /// In the form that the agent sends to the controller.
    pub fn to_failure(&self) -> Failure {
        Failure { cure: self.cure.clone(), ..Failure::from_error(self) }
    }
}

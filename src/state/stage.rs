//! The stages of a transaction: hosts act in parallel within one, and one after the other across them.

/// A turn in which hosts act in parallel.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Directors give no new connection to what is to go.
    Drain,
    /// Directors take back what is to go.
    Withdraw,
    /// Real servers, routers and clients get ready.
    #[serde(rename = "ground")]
    Ready,
    /// Directors go live.
    Live,
    /// Directors raise weights step by step.
    Ramp,
}

impl Stage {
    /// In their order.
    pub const ALL: [Self; 5] = [Self::Drain, Self::Withdraw, Self::Ready, Self::Live, Self::Ramp];

    /// What happens in it, for a person.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Drain => "the director gives no new connection to what is to go, and waits",
            Self::Withdraw => "the director stops taking what is to go",
            Self::Ready => "real servers, routers and clients get ready",
            Self::Live => "the director goes live, the VIP last",
            Self::Ramp => "new real servers get more and more of their share",
        }
    }
}

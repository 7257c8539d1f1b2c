//! Steps applied in memory, as strictly as the kernel applies them: adding what exists, changing or removing
//! what does not exist, and a present value other than `before` are errors. What the kernel changes along with
//! an edit ([`effects`]) is simulated too.

use crate::state::{Edit, HostState, Misfit, effects};

/// Why a step cannot be done in a state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SimulateError {
    /// It would be added and exists.
    #[error("{edit}: it exists already")]
    Exists {
        /// The edit.
        edit: String,
    },
    /// It would be changed or removed and does not exist.
    #[error("{edit}: it does not exist")]
    Absent {
        /// The edit.
        edit: String,
    },
    /// Its present value is another.
    #[error("{edit}: the present value is not the one that the step expects")]
    Different {
        /// The edit.
        edit: String,
    },
    /// A service would be removed that still has destinations.
    #[error("{edit}: it still has real servers")]
    Occupied {
        /// The edit.
        edit: String,
    },
    /// The kernel has no such edit.
    #[error("{edit}: the kernel cannot do that")]
    Impossible {
        /// The edit.
        edit: String,
    },
}

impl SimulateError {
    fn of(misfit: Misfit, edit: &Edit) -> Self {
        let edit = edit.to_string();
        match misfit {
            Misfit::Exists => Self::Exists { edit },
            Misfit::Absent => Self::Absent { edit },
            Misfit::Different => Self::Different { edit },
            Misfit::Occupied => Self::Occupied { edit },
            Misfit::Impossible => Self::Impossible { edit },
        }
    }
}

/// The state after `edits`, one after the other, or the first that could not be done.
pub fn simulate<'a>(
    state: &HostState,
    edits: impl IntoIterator<Item = &'a Edit>,
) -> Result<HostState, SimulateError> {
    let mut state = state.clone();
    for edit in edits {
        apply(&mut state, edit)?;
    }
    Ok(state)
}

/// Does one edit. On an error the state is as before.
pub fn apply(state: &mut HostState, edit: &Edit) -> Result<(), SimulateError> {
    if let Some(misfit) = edit.misfit(state) {
        return Err(SimulateError::of(misfit, edit));
    }
    effects::carry_along(edit, state);
    edit.put(state);
    Ok(())
}

//! Whom a program may talk to.

use serde::{Deserialize, Serialize};

/// In which network a program's internet sockets are.
///
/// Unix sockets are inside of the program under every policy; [`Policy::Open`] adds those of the host that its files lead to, and for a
/// program that is no sandbox those of abstract names.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Policy {
    /// None: it can make no internet socket (`EACCES`).
    #[default]
    Closed,
    /// Its own: a loopback interface that nobody shares, and nothing else. Neither Hydra nor any other service of the host
    /// can be reached, and nobody can reach the program. This needs the right to make network namespaces; without it the policy is as
    /// [`Policy::Closed`].
    Loopback,
    /// The host's.
    Open,
}

//! What can go wrong with the machine itself. A guest's mistakes are never one of these.

use std::io;

/// An operation on the virtual machine failed on the host's side.
#[derive(Debug, thiserror::Error)]
pub enum VmmError {
    /// `/dev/kvm` is absent or may not be opened.
    #[error("cannot open /dev/kvm: {0}; a KVM device that this process may read and write is needed")]
    Open(io::Error),
    /// The KVM lacks something without which nothing runs.
    #[error("this KVM lacks {0}, which microVMs need")]
    Lacks(&'static str),
    /// A KVM operation was refused.
    #[error("KVM refused to {doing}: {source}")]
    Kvm {
        /// What was being done.
        doing: &'static str,
        /// The operating system's answer.
        source: io::Error,
    },
    /// Guest memory could not be made or mapped.
    #[error("cannot {doing} {bytes} bytes of guest memory: {source}")]
    Memory {
        /// What was being done.
        doing: &'static str,
        /// Over how many bytes.
        bytes: u64,
        /// The operating system's answer.
        source: io::Error,
    },
    /// The VM has as many vCPUs as it may have.
    #[error("a microVM has at most {0} vCPUs, and all are in use")]
    TooManyVcpus(usize),
    /// The guest put its vCPU into a state from which it cannot go on.
    #[error("the vCPU stopped: {0}")]
    Stopped(String),
}

impl VmmError {
    /// For `map_err` on a `kvm-ioctls` call.
    pub(super) fn kvm(doing: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> VmmError {
        move |error| VmmError::Kvm { doing, source: io::Error::from_raw_os_error(error.errno()) }
    }
}

//! Whom a program may talk to.

use std::net::IpAddr;

use super::super::errno::Errno;

/// Which network addresses a program may connect and send to, and listen on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Policy {
    /// None.
    #[default]
    Closed,
    /// Those of the host's loopback interface.
    Loopback,
    /// All.
    Open,
}

impl Policy {
    /// `EACCES` unless `address` may be connected or sent to.
    pub fn check_remote(self, address: IpAddr) -> Result<(), Errno> {
        // A v4 address in v6 clothes is the v4 address.
        let address = address.to_canonical();
        match self {
            Policy::Open => Ok(()),
            // Connecting to the unspecified address reaches the host itself.
            Policy::Loopback if address.is_loopback() || address.is_unspecified() => Ok(()),
            _ => Err(Errno::EACCES),
        }
    }

    /// `EACCES` unless a socket may listen on `address`.
    pub fn check_local(self, address: IpAddr) -> Result<(), Errno> {
        match self {
            Policy::Open => Ok(()),
            Policy::Loopback if address.to_canonical().is_loopback() => Ok(()),
            // A client that leaves the choice to the kernel.
            Policy::Loopback if address.is_unspecified() => Ok(()),
            _ => Err(Errno::EACCES),
        }
    }

    /// Whether names outside of the file system (abstract Unix sockets), which the whole host shares, may be used.
    pub fn allows_abstract_names(self) -> bool {
        self == Policy::Open
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_loopback_in_every_form() {
        let check = |text: &str| Policy::Loopback.check_remote(text.parse().expect("an address")).is_ok();
        for inside in ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"] {
            assert!(check(inside), "{inside}");
        }
        for outside in ["10.0.0.1", "169.254.169.254", "::ffff:8.8.8.8", "2001:db8::1", "255.255.255.255"] {
            assert!(!check(outside), "{outside}");
        }
        assert!(Policy::Closed.check_remote("127.0.0.1".parse().expect("an address")).is_err());
    }
}

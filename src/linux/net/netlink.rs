//! What may be asked of the host's kernel over netlink: which network interfaces, addresses and routes there are, in the network that
//! the program's sockets are in. `getifaddrs` and its like ask so.

use super::super::errno::Errno;

/// Most bytes of a request; those that are allowed have a few dozen.
pub const LONGEST_REQUEST: usize = 4096;
/// Bytes of `struct nlmsghdr`.
const HEADER: usize = 16;

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// `EPERM` for any address but the kernel's own: no messages to other programs, no notices that are sent to many.
pub fn check_address(address: &[u8]) -> Result<(), Errno> {
    match (word(address, 4), word(address, 8)) {
        (Some(0), Some(0)) => Ok(()),
        (Some(_), Some(_)) => Err(Errno::EPERM),
        _ => Err(Errno::EINVAL),
    }
}

/// `EPERM` unless a request only asks.
pub fn check_request(request: &[u8]) -> Result<(), Errno> {
    let mut rest = request;
    while rest.len() >= HEADER {
        let len = word(rest, 0).map_or(0, |len| len as usize);
        if !(HEADER..=rest.len()).contains(&len) {
            return Err(Errno::EINVAL);
        }
        let kind = u16::from_ne_bytes([rest[4], rest[5]]);
        if !matches!(kind, libc::RTM_GETLINK | libc::RTM_GETADDR | libc::RTM_GETROUTE) {
            return Err(Errno::EPERM);
        }
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or(&[]);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_questions_are_allowed() {
        let message = |len: u32, kind: u16| {
            let mut bytes = len.to_ne_bytes().to_vec();
            bytes.extend_from_slice(&kind.to_ne_bytes());
            bytes.resize(32, 0);
            bytes
        };
        let two = |first, second| [message(32, first), message(32, second)].concat();
        assert_eq!(check_request(&message(32, libc::RTM_GETLINK)), Ok(()));
        assert_eq!(check_request(&two(libc::RTM_GETADDR, libc::RTM_GETROUTE)), Ok(()));
        assert_eq!(check_request(&two(libc::RTM_GETADDR, libc::RTM_NEWADDR)), Err(Errno::EPERM));
        assert_eq!(check_request(&message(8, libc::RTM_GETLINK)), Err(Errno::EINVAL));
        assert_eq!(check_request(&message(33, libc::RTM_GETLINK)), Err(Errno::EINVAL));
        assert_eq!(check_address(&[16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), Ok(()));
        assert_eq!(check_address(&[16, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]), Err(Errno::EPERM));
    }
}

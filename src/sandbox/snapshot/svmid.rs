//! The numbers of snapshots.

use sha2::{Digest, Sha256};

use crate::function::Spec;

/// Numbers that clients can give end here; those that are made from names begin. What is above this cannot be told apart by clients that
/// keep numbers as JavaScript does.
const GIVEN: u64 = 1 << 32;
const MOST: u64 = 1 << 53;

/// The number of the function's snapshot: the one that its client gave; for 0, which is what a client says that gives none, one made from
/// the function's name, the same after a restart.
pub fn svmid(spec: &Spec) -> u64 {
    if spec.svmid != 0 {
        return spec.svmid;
    }
    let digest = Sha256::digest(spec.name.as_bytes());
    let number = digest.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte));
    GIVEN + number % (MOST - GIVEN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::test_agent;

    #[test]
    fn a_number_is_given_or_made_from_the_name() {
        let mut spec = test_agent::function().spec.clone();
        let made = svmid(&spec);
        assert!((GIVEN..MOST).contains(&made), "{made}");
        assert_eq!(svmid(&spec), made);
        spec.name = "another".into();
        assert_ne!(svmid(&spec), made);
        spec.svmid = 7;
        assert_eq!(svmid(&spec), 7);
    }
}

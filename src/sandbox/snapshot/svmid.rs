//! The numbers of snapshots.

use sha2::{Digest, Sha256};

use crate::function::Spec;

/// Numbers that clients can give end here; those that are made from names begin. What is above this cannot be told apart by clients that
/// keep numbers as JavaScript does.
const GIVEN: u64 = 1 << 32;
const MOST: u64 = 1 << 53;
/// From here on they are templates'.
const TEMPLATES: u64 = MOST - (1 << 32);

/// The number of the function's snapshot: the one that its client gave; for 0, which is what a client says that gives none, one made from
/// the function's name, the same after a restart.
pub fn svmid(spec: &Spec) -> u64 {
    if spec.svmid != 0 {
        return spec.svmid;
    }
    GIVEN + number(spec.name.as_bytes()) % (TEMPLATES - GIVEN)
}

/// The number of the template of functions in a language, with `memory` MiB.
pub fn template_svmid(language: &str, memory: u32) -> u64 {
    TEMPLATES + number(format!("{language} {memory}").as_bytes()) % (MOST - TEMPLATES)
}

fn number(of: &[u8]) -> u64 {
    Sha256::digest(of).iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::test_agent;

    #[test]
    fn a_number_is_given_or_made_from_the_name() {
        let mut spec = test_agent::function().spec.clone();
        let made = svmid(&spec);
        assert!((GIVEN..TEMPLATES).contains(&made), "{made}");
        assert_eq!(svmid(&spec), made);
        spec.name = "another".into();
        assert_ne!(svmid(&spec), made);
        spec.svmid = 7;
        assert_eq!(svmid(&spec), 7);
    }

    #[test]
    fn each_template_has_its_number() {
        let numbers = [("python", 128), ("python", 256), ("java", 128)].map(|(l, m)| template_svmid(l, m));
        assert!(numbers.iter().all(|number| (TEMPLATES..MOST).contains(number)), "{numbers:?}");
        assert!(numbers[0] != numbers[1] && numbers[0] != numbers[2] && numbers[1] != numbers[2]);
    }
}

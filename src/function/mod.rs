//! What a function is: its specification, its code, and where they are kept.

pub mod spec;
pub mod store;

pub use spec::{Isolation, Language, SandboxKind, Spec, SpecError};
pub use store::{Code, CodeError, CodeStore};

use std::path::Path;

use crate::agent::Agent;

/// A registered function: what the client said of it, and its code on this host.
#[derive(Debug)]
pub struct Function {
    /// As registered.
    pub spec: Spec,
    /// Where its code is.
    pub code: Code,
}

impl Function {
    /// What the agent is to load: a file, or a folder.
    pub fn path(&self) -> &Path {
        self.code.entry.as_deref().unwrap_or(&self.code.root)
    }

    /// The agent that runs it: that of its language, or the native one for a shared object.
    pub fn agent(&self) -> Agent {
        match (self.code.form, self.spec.language) {
            (store::Form::SharedObject, _) => Agent::Native,
            (_, Language::Python) => Agent::Python,
            (_, Language::JavaScript) => Agent::JavaScript,
            (_, Language::Java) => Agent::Java,
        }
    }
}

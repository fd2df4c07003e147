//! What of the CPU a program may have come to rely on, so that a checkpoint is not continued on a lesser one.

use std::arch::x86_64::{__cpuid, __cpuid_count};

use serde::{Deserialize, Serialize};

use super::kvm::Hypervisor;
use super::state::XsaveLayout;

/// The CPU on which a program was stopped, as far as ring 3 can tell. Runtimes look once and then use what they found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Cpu {
    /// The maker, as CPUID names it.
    pub vendor: String,
    /// Instruction sets, by the names that Linux has for them in `/proc/cpuinfo`.
    pub features: Vec<String>,
    /// Size and components of a thread's XSAVE area.
    pub xsave: XsaveLayout,
    /// Offset and size of each component of that area from the third on.
    pub components: Vec<(u32, u32)>,
}

/// Why a program that was stopped on one CPU cannot go on with another.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CpuMismatch {
    /// Instructions that it may use are not there.
    #[error("it needs a CPU with {0}, which this one lacks")]
    Lacks(String),
    /// Its vector registers would not be found.
    #[error("its vector registers are laid out for another CPU ({0})")]
    Layout(String),
}

impl Cpu {
    /// This machine's.
    pub fn of_host(hypervisor: &Hypervisor) -> Cpu {
        let xsave = hypervisor.xsave();
        let present = |feature: &&Feature| feature.register() >> feature.bit & 1 != 0;
        let components = (2..63).filter(|i| xsave.features >> i & 1 != 0).map(|component| {
            let leaf = __cpuid_count(0xd, component);
            (leaf.ebx, leaf.eax)
        });
        Cpu {
            vendor: vendor(),
            features: FEATURES.iter().filter(present).map(|feature| feature.name.into()).collect(),
            xsave,
            components: components.collect(),
        }
    }

    /// Whether a program that was stopped on this CPU can go on on `host`.
    pub fn check(&self, host: &Cpu) -> Result<(), CpuMismatch> {
        let missing: Vec<_> = self.features.iter().filter(|name| !host.features.contains(name)).collect();
        if !missing.is_empty() {
            let names: Vec<&str> = missing.into_iter().map(String::as_str).collect();
            return Err(CpuMismatch::Lacks(names.join(", ")));
        }
        if (self.xsave, &self.components) != (host.xsave, &host.components) {
            return Err(CpuMismatch::Layout(self.vendor.clone()));
        }
        Ok(())
    }
}

fn vendor() -> String {
    let leaf = __cpuid(0);
    let bytes: Vec<u8> = [leaf.ebx, leaf.edx, leaf.ecx].iter().flat_map(|word| word.to_le_bytes()).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A bit of CPUID.
struct Feature {
    leaf: u32,
    subleaf: u32,
    register: Register,
    bit: u32,
    name: &'static str,
}

#[derive(Clone, Copy)]
enum Register {
    Eax,
    Ebx,
    Ecx,
    Edx,
}

impl Feature {
    fn register(&self) -> u32 {
        if __cpuid(self.leaf & 0x8000_0000).eax < self.leaf {
            return 0;
        }
        let leaf = __cpuid_count(self.leaf, self.subleaf);
        match self.register {
            Register::Eax => leaf.eax,
            Register::Ebx => leaf.ebx,
            Register::Ecx => leaf.ecx,
            Register::Edx => leaf.edx,
        }
    }
}

macro_rules! features {
    ($($leaf:literal $subleaf:literal $register:ident: $($bit:literal $name:literal)*;)*) => {
        /// Instructions that ring 3 may use.
        const FEATURES: &[Feature] = &[$($(
            Feature { leaf: $leaf, subleaf: $subleaf, register: Register::$register, bit: $bit, name: $name },
        )*)*];
    };
}

features! {
    1 0 Ecx: 0 "pni" 1 "pclmulqdq" 9 "ssse3" 12 "fma" 13 "cx16" 19 "sse4_1" 20 "sse4_2" 22 "movbe" 23 "popcnt" 25 "aes"
        26 "xsave" 28 "avx" 29 "f16c" 30 "rdrand";
    7 0 Ebx: 0 "fsgsbase" 3 "bmi1" 4 "hle" 5 "avx2" 8 "bmi2" 9 "erms" 11 "rtm" 16 "avx512f" 17 "avx512dq" 18 "rdseed"
        19 "adx" 21 "avx512ifma" 23 "clflushopt" 24 "clwb" 26 "avx512pf" 27 "avx512er" 28 "avx512cd" 29 "sha_ni"
        30 "avx512bw" 31 "avx512vl";
    7 0 Ecx: 0 "prefetchwt1" 1 "avx512vbmi" 5 "waitpkg" 6 "avx512_vbmi2" 8 "gfni" 9 "vaes" 10 "vpclmulqdq" 11 "avx512_vnni"
        12 "avx512_bitalg" 14 "avx512_vpopcntdq" 22 "rdpid" 25 "cldemote" 27 "movdiri" 28 "movdir64b";
    7 0 Edx: 2 "avx512_4vnniw" 3 "avx512_4fmaps" 4 "fsrm" 8 "avx512_vp2intersect" 14 "serialize" 23 "avx512_fp16";
    7 1 Eax: 4 "avx_vnni" 5 "avx512_bf16" 10 "fzrm" 11 "fsrs" 12 "fsrc" 23 "avx_ifma";
    0xd 1 Eax: 0 "xsaveopt" 1 "xsavec" 2 "xgetbv1";
    0x8000_0001 0 Ecx: 0 "lahf_lm" 5 "abm" 6 "sse4a" 8 "3dnowprefetch" 11 "xop" 16 "fma4" 21 "tbm";
    0x8000_0001 0 Edx: 22 "mmxext" 27 "rdtscp";
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpu(features: &[&str], size: usize) -> Cpu {
        Cpu {
            vendor: "GenuineTest".into(),
            features: features.iter().map(|name| (*name).into()).collect(),
            xsave: XsaveLayout { features: 7, size },
            components: vec![(576, 256)],
        }
    }

    #[test]
    fn a_lesser_cpu_is_refused_by_the_name_of_what_it_lacks() {
        let old = cpu(&["avx", "avx2"], 832);
        assert_eq!(old.check(&cpu(&["avx2", "avx", "sha_ni"], 832)), Ok(()));
        assert_eq!(old.check(&cpu(&["avx"], 832)), Err(CpuMismatch::Lacks("avx2".into())));
        assert!(matches!(old.check(&cpu(&["avx", "avx2"], 1088)), Err(CpuMismatch::Layout(_))));
    }

    #[test]
    fn the_names_are_those_of_the_host() {
        let Ok(info) = std::fs::read_to_string("/proc/cpuinfo") else { return };
        let Some(flags) = info.lines().find_map(|line| line.strip_prefix("flags")) else { return };
        let shown: Vec<&str> = flags.split_whitespace().collect();
        // Linux shows it on every AMD processor, whatever the processor says.
        let said = |name: &str| shown.contains(&name) && name != "3dnowprefetch";
        for feature in FEATURES.iter().filter(|f| said(f.name)) {
            assert!(
                feature.register() >> feature.bit & 1 != 0,
                "{} is not where the table says",
                feature.name
            );
        }
    }
}

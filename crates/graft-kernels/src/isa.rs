//! The instruction sets that this crate's own kernels choose between when they run.
//!
//! The environment variable `GRAFT_MAX_ISA` names the last one that may be used; what the crates
//! `gemm` and `half` choose is theirs. `none` leaves everything to MLX's own operations.

use std::sync::{LazyLock, OnceLock};

use mlx_graft::{Error, Result};
use pulp::Arch;

const VARIABLE: &str = "GRAFT_MAX_ISA";

/// Instruction sets, each with those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Isa {
    /// That of MLX's own operations.
    None,
    /// What the compiler makes of portable code for any processor of its kind.
    Portable,
    /// AVX2 and FMA, also in portable code.
    Avx2,
    /// AVX-512 F, BW and VL, also in portable code.
    Avx512,
    /// Dot products of bytes.
    Avx512Vnni,
    /// Dot products of pairs of `bfloat16`.
    Avx512Bf16,
}

impl Isa {
    const ALL: [(&str, Self); 6] = [
        ("none", Self::None),
        ("portable", Self::Portable),
        ("avx2", Self::Avx2),
        ("avx512", Self::Avx512),
        ("avx512_vnni", Self::Avx512Vnni),
        ("avx512_bf16", Self::Avx512Bf16),
    ];

    /// Whether the processor has the instructions.
    pub(crate) fn is_supported(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            let avx512 = avx2
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl");
            match self {
                Self::None | Self::Portable => true,
                Self::Avx2 => avx2,
                Self::Avx512 => avx512,
                Self::Avx512Vnni => avx512 && is_x86_feature_detected!("avx512vnni"),
                Self::Avx512Bf16 => avx512 && is_x86_feature_detected!("avx512bf16"),
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            self <= Self::Portable
        }
    }

    /// Whether the processor has the instructions, and they may be used.
    pub(crate) fn is_usable(self) -> bool {
        self.is_supported() && !matches!(last(), Ok(Some(last)) if self > *last)
    }

    /// Whether the environment asks for these instructions, even where others are faster.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn is_asked_for(self) -> bool {
        matches!(last(), Ok(Some(last)) if self == *last)
    }
}

/// Whether the processor is AMD's.
#[cfg(target_arch = "x86_64")]
pub(crate) fn is_amd() -> bool {
    // A virtual machine takes microseconds for the instruction.
    static IS_AMD: LazyLock<bool> = LazyLock::new(|| {
        let vendor = std::arch::x86_64::__cpuid(0);
        let name = [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes);
        name.as_flattened() == b"AuthenticAMD"
    });
    *IS_AMD
}

/// The widest registers that portable code may use.
pub(crate) fn arch() -> Arch {
    static ARCH: LazyLock<Arch> = LazyLock::new(|| {
        #[cfg(target_arch = "x86_64")]
        if !Isa::Avx512.is_usable() {
            let narrower = pulp::x86::V3::try_new().filter(|_| Isa::Avx2.is_usable());
            return narrower.map_or(Arch::Scalar, Arch::V3);
        }
        Arch::new()
    });
    *ARCH
}

/// The last instruction set that may be used, if the environment names one.
fn last() -> &'static Result<Option<Isa>, String> {
    static LAST: OnceLock<Result<Option<Isa>, String>> = OnceLock::new();
    LAST.get_or_init(|| {
        let Some(value) = std::env::var_os(VARIABLE) else { return Ok(None) };
        let known = Isa::ALL.into_iter().find(|(name, _)| value == *name);
        match known {
            Some((_, isa)) if isa.is_supported() => Ok(Some(isa)),
            found => {
                let usable = Isa::ALL.into_iter().filter(|(_, isa)| isa.is_supported());
                let usable: Vec<&str> = usable.map(|(name, _)| name).collect();
                let problem = if found.is_some() {
                    "this processor lacks it"
                } else {
                    "no such set is known"
                };
                Err(format!(
                    "the environment variable {VARIABLE} is {}: {problem}; unset it, or set it to \
                     one of {}",
                    value.display(),
                    usable.join(", ")
                ))
            }
        }
    })
}

/// Whether the environment leaves anything to this crate's kernels.
///
/// # Errors
/// It names a set that is not known, or that the processor lacks.
pub(crate) fn are_kernels_wanted() -> Result<bool> {
    last().as_ref().map_err(|message| Error::invalid_argument(VARIABLE, message))?;
    Ok(Isa::Portable.is_usable())
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use std::mem::discriminant;
    use std::process::Command;

    use super::*;

    /// The choice is made once, so each set is that of a process that this test starts.
    #[test]
    fn portable_code_keeps_to_the_set_that_is_named() {
        let named = std::env::var(VARIABLE).ok();
        match named.as_deref() {
            Some("portable") => return assert!(matches!(arch(), Arch::Scalar)),
            Some("avx2") => return assert!(matches!(arch(), Arch::V3(_))),
            _ => assert_eq!(discriminant(&arch()), discriminant(&Arch::new())),
        }
        for (name, isa) in [("portable", Isa::Portable), ("avx2", Isa::Avx2)] {
            if isa.is_supported() {
                let test = "isa::tests::portable_code_keeps_to_the_set_that_is_named";
                let out = Command::new(std::env::current_exe().expect("the test has a path"))
                    .args([test, "--exact"])
                    .env(VARIABLE, name)
                    .output()
                    .expect("the test runs once more");
                let text = String::from_utf8_lossy(&out.stdout);
                assert!(out.status.success() && text.contains("1 passed"), "{name}: {text}");
            }
        }
    }
}

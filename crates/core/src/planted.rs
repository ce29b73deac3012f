//! Mistakes that tests plant to see that the crash tests would find them. Asked at the six places where the real mistake
//! would be, once per checkpoint, restore or deletion; `tests/tests/planted.rs` names one to the processes it starts.
//! A release build has none of them: there [`planted`] is constant and the compiler removes what it guards.

/// The variable of the environment that names the mistake.
pub const VARIABLE: &str = "WEIR_PLANTED_BUG";

/// A barrier goes on before the operator is frozen: its state holds one batch that came behind the barrier.
pub const BARRIER_BEFORE_FREEZE: &str = "barrier-before-freeze";
/// A source notes its positions behind the barrier: they cover a batch that went out after it.
pub const OFFSETS_AFTER_BARRIER: &str = "offsets-after-barrier";
/// Output is published when all tasks have answered, before the pointer to the checkpoint is durable.
pub const NOTIFIED_IS_COMMITTED: &str = "notified-is-committed";
/// A restore cuts state one key group too late.
pub const KEY_GROUP_OFF_BY_ONE: &str = "key-group-off-by-one";
/// Objects of a dropped checkpoint are deleted although a retained one names them.
pub const SHARED_OBJECT_DELETED_EARLY: &str = "shared-object-deleted-early";
/// A task answers before its last object is stored.
pub const MANIFEST_BEFORE_LAST_OBJECT: &str = "manifest-before-last-object";
/// No mistake of checkpoints: the master of a job panics when a user asks for a savepoint.
pub const MASTER_PANICS: &str = "master-panics";

/// All mistakes that the crash tests must find.
pub const ALL: [&str; 6] = [
    BARRIER_BEFORE_FREEZE,
    OFFSETS_AFTER_BARRIER,
    NOTIFIED_IS_COMMITTED,
    KEY_GROUP_OFF_BY_ONE,
    SHARED_OBJECT_DELETED_EARLY,
    MANIFEST_BEFORE_LAST_OBJECT,
];

/// Whether this mistake is planted in this process. The environment is read once.
#[cfg(debug_assertions)]
pub fn planted(name: &str) -> bool {
    static NAME: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    NAME.get_or_init(|| std::env::var(VARIABLE).ok()).as_deref() == Some(name)
}

/// Never.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub const fn planted(_name: &str) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn nothing_is_planted_unless_it_is_asked_for() {
        assert_eq!(BTreeSet::from(ALL).len(), ALL.len());
        assert!(!ALL.into_iter().any(planted));
    }
}

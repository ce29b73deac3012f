//! Where tasks run: who has slots, which task goes to which slot, and what each worker is sent.

pub mod assign;
pub(crate) mod deploy;
pub mod slots;

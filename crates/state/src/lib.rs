//! Keyed state: typed tables in memory that operators keep their keys in, the budget that bounds them, and the store on
//! disk behind them. A row touches only a table.
//!
//! Operators use it; it must not know checkpoints, object stores or operators. Snapshots are cut by key group: every
//! entry's group follows from its hash, see [`KeyTable::ids_of_key_groups`].

pub mod budget;
pub mod rows_codec;
pub mod slot_index;
pub mod state_table;
pub mod store;

pub mod key_table;

mod key_store;

pub use budget::{FrozenShare, MemoryBudget, MemoryShare};
pub use key_table::KeyTable;
pub use slot_index::SlotIndex;
pub use state_table::{FrozenPiece, FrozenTable, StateScope, StateTable};
pub use store::{StateSpace, StateStoreError, StateStores};

//! The three tables of the stream: which events belong to them and what columns they have (pure).

use std::sync::Arc;

use arrow_schema::{DataType, Field, Schema, SchemaRef};
use weir_core::batch::event_time_type;

/// One of the three kinds of events.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Table {
    Person,
    Auction,
    Bid,
}

/// One column of a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Column {
    Id,
    Name,
    EmailAddress,
    CreditCard,
    City,
    State,
    DateTime,
    Extra,
    ItemName,
    Description,
    InitialBid,
    Reserve,
    Expires,
    Seller,
    Category,
    Auction,
    Bidder,
    Price,
    Channel,
    Url,
}

use Column::*;

const PERSON: [Column; 8] = [Id, Name, EmailAddress, CreditCard, City, State, DateTime, Extra];
const AUCTION: [Column; 10] =
    [Id, ItemName, Description, InitialBid, Reserve, DateTime, Expires, Seller, Category, Extra];
const BID: [Column; 7] = [Auction, Bidder, Price, Channel, Url, DateTime, Extra];

impl Table {
    /// The names a user writes.
    pub(super) const NAMES: [&'static str; 3] = ["person", "auction", "bid"];

    pub(super) fn from_name(name: &str) -> Option<Table> {
        [Table::Person, Table::Auction, Table::Bid]
            .into_iter()
            .zip(Table::NAMES)
            .find(|(_, n)| *n == name)
            .map(|(t, _)| t)
    }

    /// Place of the table's first event in a block.
    pub(super) fn block_offset(self) -> u64 {
        match self {
            Table::Person => 0,
            Table::Auction => 1,
            Table::Bid => 4,
        }
    }

    /// Rows of the table in a block.
    pub(super) fn rows_per_block(self) -> usize {
        match self {
            Table::Person => 1,
            Table::Auction => 3,
            Table::Bid => 46,
        }
    }

    fn columns(self) -> &'static [Column] {
        match self {
            Table::Person => &PERSON,
            Table::Auction => &AUCTION,
            Table::Bid => &BID,
        }
    }

    /// Schema of the whole table.
    pub(super) fn schema(self) -> SchemaRef {
        schema_of(self.columns())
    }

    /// The columns a reader is asked for, in that order; all when nothing is asked. Nothing at all (`count(*)`) becomes
    /// the event time alone, because a batch needs a column to have rows. Unknown names are given back.
    pub(super) fn project(self, names: Option<&[String]>) -> Result<Vec<Column>, String> {
        match names {
            None => Ok(self.columns().to_vec()),
            Some([]) => Ok(vec![DateTime]),
            Some(names) => names
                .iter()
                .map(|name| self.columns().iter().copied().find(|c| c.name() == name).ok_or_else(|| name.clone()))
                .collect(),
        }
    }
}

/// Schema of some columns.
pub(super) fn schema_of(columns: &[Column]) -> SchemaRef {
    let field = |column: &Column| Field::new(column.name(), column.data_type(), false);
    Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>()))
}

impl Column {
    pub(super) fn name(self) -> &'static str {
        match self {
            Id => "id",
            Name => "name",
            EmailAddress => "email_address",
            CreditCard => "credit_card",
            City => "city",
            State => "state",
            DateTime => "dateTime",
            Extra => "extra",
            ItemName => "itemName",
            Description => "description",
            InitialBid => "initialBid",
            Reserve => "reserve",
            Expires => "expires",
            Seller => "seller",
            Category => "category",
            Auction => "auction",
            Bidder => "bidder",
            Price => "price",
            Channel => "channel",
            Url => "url",
        }
    }

    fn data_type(self) -> DataType {
        match self {
            DateTime | Expires => event_time_type(),
            Id | InitialBid | Reserve | Seller | Category | Auction | Bidder | Price => DataType::Int64,
            _ => DataType::Utf8,
        }
    }
}

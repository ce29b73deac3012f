//! What is refused at submission, and in which words.

use std::fmt::Write;
use std::sync::Arc;

use arrow_schema::{DataType, Field, Fields, Schema, SchemaRef};
use expect_test::{Expect, expect};
use weir_core::batch::{change_field, event_time_type};
use weir_expr::{Expression, Predicate, aggregate_call, order_item, select_item};

fn schema() -> SchemaRef {
    let stop = Fields::from(vec![Field::new("city", DataType::Utf8, true)]);
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("price", DataType::Int64, true),
        Field::new("speed", DataType::Float64, true),
        Field::new("name", DataType::Utf8, true),
        Field::new("dateTime", event_time_type(), false),
        Field::new("stop", DataType::Struct(stop), true),
        change_field(),
    ]))
}

fn check<T>(texts: &[&str], compile: impl Fn(&str) -> Result<T, String>, expected: Expect) {
    let mut lines = String::new();
    for text in texts {
        let outcome = compile(text).map_or_else(|error| error, |_| "FINE".to_owned());
        writeln!(lines, "{text}\n    {outcome}").expect("strings take all");
    }
    expected.assert_eq(&lines);
}

fn expression(sql: &str) -> Result<Expression, String> {
    Expression::compile(sql, &schema()).map_err(|error| error.to_string())
}

#[test]
fn syntax() {
    check(
        &[
            "",
            "  \n",
            "-- nothing",
            "price +",
            "price price",
            "(price",
            "price)",
            "price; id",
            "price, id",
            "price /* per ton */ * 2",
            "price * 2 -- doubled",
            "price /* open",
            "'open",
            "SELECT 1",
            "price AS p",
            "CASE WHEN id",
            "price ! id",
            "price\n + )",
        ],
        expression,
        expect![[""]],
    );
}

#[test]
fn names() {
    check(
        &[
            "datetime",
            "Price",
            "pirce * 2",
            "entirely_different",
            "stop.town",
            "stop.cty",
            "price.x",
            "t.price",
            "stop['town']",
            "\"price \"",
            "@price",
            "uper(name)",
            "geo_distance(1, 2, 3, 4)",
            "nothing_like_it(1)",
            "my.f(1)",
            "to_timestmap(name)",
        ],
        expression,
        expect![[""]],
    );
}

#[test]
fn types() {
    check(
        &[
            "name + 1",
            "name * 2",
            "speed AND id > 1",
            "id > 1 AND name",
            "abs(name)",
            "upper(1, 2)",
            "NOT name",
            "dateTime + 1",
            "dateTime - dateTime",
            "INTERVAL '1' HOUR",
            "NULL",
            "CAST(id AS NOTHING)",
            "CAST(id AS TIMESTAMP(9))",
            "CASE WHEN id THEN 1 END",
            "date_format(dateTime, 'YYYY')",
            "date_format(dateTime, name)",
            "date_format(name, 'yyyy')",
            "epoch_millis(id)",
            "from_epoch_millis(speed)",
            "from_epoch_millis(1, 2)",
            "geo_distance_km(1, 2)",
            "geo_distance_km(name, 1, 2, 3)",
            "stop + 1",
            "id[1]",
            "regexp_like(name, '(')",
            "name ~ '('",
        ],
        expression,
        expect![[""]],
    );
}

#[test]
fn constants_that_fail() {
    check(
        &[
            "1 / 0",
            "id + 1 / 0",
            "9223372036854775807 + 1",
            "-(-9223372036854775807 - 1)",
            "CAST('abc' AS INT)",
            "CASE WHEN id > 0 THEN CAST('2018-13-01' AS DATE) END",
            "2147483647 + 1",
            "from_epoch_millis(9223372036854775807)",
            "replace(replace(replace(replace('aaaaaaaaaaaaaaaa', 'a', 'aaaaaaaaaaaaaaaa'), 'a', 'aaaaaaaaaaaaaaaa'), 'a', 'aaaaaaaaaaaaaaaa'), 'a', 'aaaaaaaaaaaaaaaa')",
        ],
        |sql| expression(sql),
        expect![[""]],
    );
}

#[test]
fn refusals() {
    check(
        &[
            "now()",
            "random()",
            "uuid()",
            "current_date",
            "current_timestamp",
            "CURRENT_TIMESTAMP()",
            "today()",
            "current_time()",
            "(SELECT 1)",
            "id IN (SELECT 1)",
            "EXISTS (SELECT 1)",
            "sum(price)",
            "1 + count(*)",
            "stddev(price)",
            "row_number() OVER (ORDER BY id)",
            "sum(price) OVER ()",
            "upper(name) FILTER (WHERE id > 1)",
            "?",
            "price > $1",
            "*",
            "x -> x + 1",
            "array_transform([1], x -> x + 1)",
            "repeat(name, 1000000000)",
            "range(0, 1000000000)",
            "lpad(name, 1000000000, 'x')",
            "lpad(name, id, 'x')",
            "version()",
            "arrow_typeof(id)",
        ],
        expression,
        expect![[""]],
    );
}

#[test]
fn predicates() {
    let predicate = |sql: &str| Predicate::compile(sql, &schema()).map_err(|error| error.to_string());
    check(&["id", "name", "id > 1", "speed + 1"], predicate, expect![[""]]);
}

#[test]
fn select_items() {
    let items = |sql: &str| -> Result<(), String> {
        let items = select_item(sql, &schema()).map_err(|error| error.to_string())?;
        let names: Vec<_> = items.iter().map(|item| format!("{}={}", item.name, item.expression.sql())).collect();
        Err(names.join(" "))
    };
    check(
        &[
            "*",
            "price",
            "stop.city",
            "price * 2 AS double",
            "price AS \"the Price\"",
            "price * 2",
            "upper(name)",
            "price double",
            "price * 2 double",
            "* EXCEPT (id)",
            "stop.*",
            "price AS",
            "price AS a, id AS b",
            "sum(price) AS x",
            "price AS \"\"",
        ],
        items,
        expect![[""]],
    );
}

#[test]
fn aggregates() {
    let call = |sql: &str| -> Result<(), String> {
        let call = aggregate_call(sql, &schema()).map_err(|error| error.to_string())?;
        let argument = call.argument.as_ref().map_or("*", |argument| argument.sql());
        let filter =
            call.filter.as_ref().map(|filter| format!(" where {}", filter.expression().sql())).unwrap_or_default();
        Err(format!(
            "{} = {}({argument}){filter}: {}",
            call.name,
            call.function,
            weir_core::data_type::name(&call.data_type)
        ))
    };
    check(
        &[
            "count(*) AS n",
            "COUNT(price) AS n",
            "count(DISTINCT name) AS n",
            "sum(price) AS total",
            "sum(speed * 2) AS total",
            "sum(0.908 * price) AS total",
            "avg(price) AS mean",
            "min(name) AS m",
            "MAX(dateTime) AS m",
            "first(name) AS f",
            "last(stop.city) AS l",
            "count(*) FILTER (WHERE price > 10 AND name LIKE 'a%') AS n",
            "sum(price)",
            "count(*) n",
            "cuont(*) AS n",
            "median(price) AS m",
            "first_value(price) AS f",
            "sum(name) AS s",
            "sum(*) AS s",
            "count() AS n",
            "count(DISTINCT *) AS n",
            "count(id, price) AS n",
            "sum(DISTINCT price) AS s",
            "sum(price) + 1 AS s",
            "price AS p",
            "*",
            "sum(sum(price)) AS s",
            "sum(prize) AS s",
            "count(*) FILTER (WHERE price) AS n",
            "sum(price) OVER () AS s",
            "first(name ORDER BY id) AS f",
            "min(stop) AS m",
            "sum(price) AS a, sum(id) AS b",
        ],
        call,
        expect![[""]],
    );
}

#[test]
fn orderings() {
    let order = |sql: &str| -> Result<(), String> {
        let item = order_item(sql, &schema()).map_err(|error| error.to_string())?;
        Err(format!("{item:?}"))
    };
    check(
        &[
            "price",
            "price ASC",
            "dateTime desc",
            "prize",
            "price + 1",
            "price DESC NULLS FIRST",
            "price, id",
            "price DOWN",
            "",
        ],
        order,
        expect![[""]],
    );
}

/// Every hostile text is refused or compiled; none overflows the 2 MiB stack of a test thread.
#[test]
fn depth_is_bounded() {
    let nested = |open: &str, inner: &str, close: &str, count: usize| open.repeat(count) + inner + &close.repeat(count);
    let refused = [
        nested("(", "id", ")", 51),
        nested("(", "id", ")", 8000),
        nested("abs(", "id", ")", 1000),
        nested("- ", "id", "", 3000),
        nested("NOT ", "id = 1", "", 3000),
        nested("CASE WHEN true THEN ", "id", " END", 400),
        nested("[", "id", "]", 4000),
        nested("INTERVAL ", "'1'", "", 1500),
        nested("CAST(id AS ", "ARRAY<INT>", ")", 1000),
        format!("CAST(id AS {})", nested("ARRAY<", "INT", ">", 2000)),
        format!("id{}", " + 1".repeat(4000)),
        format!("id{}", "::BIGINT".repeat(1500)),
        format!("id{}", " IS NULL".repeat(1500)),
        format!("id{}", " BETWEEN 1 AND 2".repeat(900)),
        format!("id{}", "[1]".repeat(4000)),
        format!("stop{}", ".city".repeat(3000)),
        format!("name{}", " LIKE name".repeat(1500)),
        format!("id = 1{}", " OR id = 1".repeat(1500)),
        nested("(", "id", " + 1)", 40),
    ];
    for sql in refused {
        let shown: String = sql.chars().take(40).collect();
        let error = expression(&sql[..sql.len().min(16 * 1024)]).map(drop).expect_err(&shown);
        assert!(error.contains("nests deeper") || error.contains("ANDs and ORs"), "{shown}: {error}");
    }
    let text = format!("'{}'", "x".repeat(20_000));
    assert!(expression(&text).map(drop).expect_err("too long").contains("20002 bytes"));
}

#[test]
fn what_the_limits_allow_compiles() {
    let nested = |open: &str, inner: &str, close: &str, count: usize| open.repeat(count) + inner + &close.repeat(count);
    for sql in [
        nested("(", "id", ")", 49),
        nested("abs(", "id", ")", 49),
        nested("CASE WHEN id > 1 THEN ", "id", " END", 45),
        nested("coalesce(price, ", "id", ")", 48),
        nested("NOT ", "id = 1", "", 45),
        format!("id{}", " + price".repeat(49)),
        format!("id = 0{}", (0..900).map(|n| format!(" OR id = {n}")).collect::<String>()),
        format!("id > 0{}", " AND speed > 1".repeat(900)),
        format!("id IN (0{})", (0..2500).map(|n| format!(", {n}")).collect::<String>()),
        format!("CASE {} END", (0..300).map(|n| format!("WHEN id = {n} THEN '{n}' ")).collect::<String>()),
        format!("name || {}", vec!["name"; 48].join(" || ")),
    ] {
        let shown: String = sql.chars().take(40).collect();
        if let Err(error) = expression(&sql) {
            panic!("{shown}: {error}");
        }
    }
}

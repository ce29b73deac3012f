//! What is refused at submission, and in which words.

#![allow(clippy::too_many_lines, reason = "snapshots are long")]

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
        // Blank lines would not survive the indentation of a snapshot.
        let shown = if text.trim().is_empty() { "(blank)" } else { text };
        writeln!(lines, "{shown}\n    {outcome}").expect("strings take all");
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
        expect![[r#"
            (blank)
                the expression is empty; write a column or a SQL expression
            (blank)
                the expression is empty; write a column or a SQL expression
            -- nothing
                the expression is empty; write a column or a SQL expression
            price +
                syntax error: expected an expression, found: EOF
            price price
                one expression is expected, but after it comes 'price' (line 1, column 7)
            (price
                syntax error: expected ), found: EOF
            price)
                one expression is expected, but after it comes ')' (line 1, column 6)
            price; id
                one expression is expected, but after it comes '; id' (line 1, column 6)
            price, id
                one expression is expected, but after it comes ', id' (line 1, column 6)
            price /* per ton */ * 2
                FINE
            price * 2 -- doubled
                FINE
            price /* open
                syntax error: Unexpected EOF while in a multi-line comment at Line: 1, Column: 14
            'open
                syntax error: Unterminated string literal at Line: 1, Column: 1
            SELECT 1
                one expression is expected, but after it comes '1' (line 1, column 8)
            price AS p
                one expression is expected, but after it comes 'AS p' (line 1, column 7)
            CASE WHEN id
                one expression is expected, but after it comes 'WHEN id' (line 1, column 6)
            price ! id
                syntax error: No infix parser for token ExclamationMark at Line: 1, Column: 7
            price
             + )
                syntax error: expected an expression, found: ) at Line: 2, Column: 4
        "#]],
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
        expect![[r#"
            datetime
                no column 'datetime'; did you mean 'dateTime'?; there are: id, price, speed, name, dateTime, stop
            Price
                no column 'Price'; did you mean 'price'?; there are: id, price, speed, name, dateTime, stop
            pirce * 2
                no column 'pirce'; did you mean 'price'?; there are: id, price, speed, name, dateTime, stop
            entirely_different
                no column 'entirely_different'; there are: id, price, speed, name, dateTime, stop
            stop.town
                no field 'town'; there are: city
            stop.cty
                no field 'cty'; did you mean 'city'?; there are: city
            price.x
                'price' is BIGINT and has no field 'x'
            t.price
                no column 't'; there are: id, price, speed, name, dateTime, stop
            stop['town']
                Field town not found in struct
            "price "
                no column 'price '; did you mean 'price'?; there are: id, price, speed, name, dateTime, stop
            @price
                no column '@price'; did you mean 'price'?; there are: id, price, speed, name, dateTime, stop
            uper(name)
                no function 'uper'; did you mean 'upper'?
            geo_distance(1, 2, 3, 4)
                no function 'geo_distance'; did you mean 'geo_distance_km'?
            nothing_like_it(1)
                no function 'nothing_like_it'
            my.f(1)
                no function 'my.f'
            to_timestmap(name)
                no function 'to_timestmap'; did you mean 'to_timestamp'?
        "#]],
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
        expect![[r#"
            name + 1
                Cannot coerce arithmetic expression Utf8 + Int64 to valid types
            name * 2
                Cannot coerce arithmetic expression Utf8 * Int64 to valid types
            speed AND id > 1
                Cannot infer common argument type for logical boolean operation Float64 AND Boolean
            id > 1 AND name
                Cannot infer common argument type for logical boolean operation Boolean AND Utf8
            abs(name)
                Function 'abs' expects Numeric but received String
            upper(1, 2)
                Function 'upper' expects 1 arguments but received 2
            NOT name
                Unary operator 'NOT' requires a boolean expression, got Utf8
            dateTime + 1
                Cannot coerce arithmetic expression Timestamp(µs, "UTC") + Int64 to valid types
            dateTime - dateTime
                the result is a length of time, which no column can hold; compute it as a number: epoch_millis(a) - epoch_millis(b)
            INTERVAL '1' HOUR
                the result is a length of time, which no column can hold; compute it as a number: epoch_millis(a) - epoch_millis(b)
            NULL
                the result is always NULL and has no type; write for example CAST(NULL AS STRING)
            CAST(id AS NOTHING)
                Unsupported SQL type NOTHING
            CAST(id AS TIMESTAMP(9))
                TIMESTAMP(9): a timestamp's precision is 0 to 6 digits
            CASE WHEN id THEN 1 END
                FINE
            date_format(dateTime, 'YYYY')
                'Y' in the date pattern "YYYY" is not known; use y M d D E H h a m s S, and quote text: 'T'
            date_format(dateTime, name)
                date_format needs its pattern written out: date_format(ts, 'yyyy-MM-dd')
            date_format(name, 'yyyy')
                date_format needs a TIMESTAMP, not STRING; write CAST(x AS TIMESTAMP) or from_epoch_millis(x)
            epoch_millis(id)
                epoch_millis needs a TIMESTAMP, not BIGINT; write CAST(x AS TIMESTAMP) or from_epoch_millis(x)
            from_epoch_millis(speed)
                from_epoch_millis needs a BIGINT, not DOUBLE; write CAST(x AS BIGINT)
            from_epoch_millis(1, 2)
                from_epoch_millis takes 1 arguments, not 2: it takes milliseconds since 1970-01-01 UTC
            geo_distance_km(1, 2)
                geo_distance_km takes 4 arguments, not 2: geo_distance_km(lat1, lon1, lat2, lon2), in degrees
            geo_distance_km(name, 1, 2, 3)
                geo_distance_km needs numbers, not STRING: geo_distance_km(lat1, lon1, lat2, lon2), in degrees
            stop + 1
                Cannot coerce arithmetic expression Struct("city": Utf8) + Int64 to valid types
            id[1]
                array_element does not support type Int64
            regexp_like(name, '(')
                regex parse error: ( ^ error: unclosed group
            name ~ '('
                regex parse error: ( ^ error: unclosed group
        "#]],
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
        expression,
        expect![[r#"
            1 / 0
                '1 / 0' fails for every row: division by zero
            id + 1 / 0
                '1 / 0' fails for every row: division by zero
            9223372036854775807 + 1
                '9223372036854775807 + 1' fails for every row: Overflow happened on: 9223372036854775807 + 1
            -(-9223372036854775807 - 1)
                '(- -9223372036854775808)' fails for every row: Overflow happened on: 0 - -9223372036854775808
            CAST('abc' AS INT)
                'CAST('abc' AS INT)' fails for every row: Cannot cast string 'abc' to value of Int32 type
            CASE WHEN id > 0 THEN CAST('2018-13-01' AS DATE) END
                'CAST('2018-13-01' AS DATE)' fails for every row: Cannot cast string '2018-13-01' to value of Date32 type
            2147483647 + 1
                FINE
            from_epoch_millis(9223372036854775807)
                'from_epoch_millis(Int64(9223372036854775807))' fails for every row: 9223372036854775807 milliseconds are no timestamp
            replace(replace(replace(replace('aaaaaaaaaaaaaaaa', 'a', 'aaaaaaaaaaaaaaaa'), 'a', 'aaaaaaaaaaaaaaaa'), 'a', 'aaaaaaaaaaaaaaaa'), 'a', 'aaaaaaaaaaaaaaaa')
                'replace(Utf8("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa' fails for every row: it has 65600 bytes, more than the 65536 allowed
        "#]],
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
        expect![[r#"
            now()
                now gives another result each time it is called, and after a recovery the same records must give the same results; use a column of the record, such as its event time
            random()
                random gives another result each time it is called, and after a recovery the same records must give the same results; use a column of the record, such as its event time
            uuid()
                uuid gives another result each time it is called, and after a recovery the same records must give the same results; use a column of the record, such as its event time
            current_date
                current_date gives another result each time it is called, and after a recovery the same records must give the same results; use a column of the record, such as its event time
            current_timestamp
                current_timestamp gives another result each time it is called, and after a recovery the same records must give the same results; use a column of the record, such as its event time
            CURRENT_TIMESTAMP()
                current_timestamp gives another result each time it is called, and after a recovery the same records must give the same results; use a column of the record, such as its event time
            today()
                today gives another result each time it is called, and after a recovery the same records must give the same results; use a column of the record, such as its event time
            current_time()
                current_time gives another result each time it is called, and after a recovery the same records must give the same results; use a column of the record, such as its event time
            (SELECT 1)
                a subquery cannot be used here: an expression sees one row of one input; use a join
            id IN (SELECT 1)
                a subquery cannot be used here: an expression sees one row of one input; use a join
            EXISTS (SELECT 1)
                a subquery cannot be used here: an expression sees one row of one input; use a join
            sum(price)
                the aggregate function sum cannot be used here: an expression sees one row; list it under 'aggregates' of a window operator
            1 + count(*)
                the aggregate function count cannot be used here: an expression sees one row; list it under 'aggregates' of a window operator
            stddev(price)
                the aggregate function stddev cannot be used here: an expression sees one row; list it under 'aggregates' of a window operator
            row_number() OVER (ORDER BY id)
                the window function row_number OVER cannot be used here: an expression sees one row; use a window operator
            sum(price) OVER ()
                the window function sum OVER cannot be used here: an expression sees one row; use a window operator
            upper(name) FILTER (WHERE id > 1)
                FILTER cannot be used here: only aggregate functions take it
            ?
                the placeholder ? cannot be used here: there is nobody to fill it; in a job file write ${name} and submit with -D name=value
            price > $1
                the placeholder $1 cannot be used here: there is nobody to fill it; in a job file write ${name} and submit with -D name=value
            *
                syntax error: expected an expression, found: * at Line: 1, Column: 1
            x -> x + 1
                no column 'x'; there are: id, price, speed, name, dateTime, stop
            array_transform([1], x -> x + 1)
                no function 'array_transform'
            repeat(name, 1000000000)
                the function repeat cannot be used here: the size of its result has no bound
            range(0, 1000000000)
                the function range cannot be used here: the size of its result has no bound
            lpad(name, 1000000000, 'x')
                lpad to a length of 1000000000 cannot be used here: the length must be a number written out, at most 1000
            lpad(name, id, 'x')
                lpad to a length of id cannot be used here: the length must be a number written out, at most 1000
            version()
                the function version cannot be used here: it tells about the engine and not about the record
            arrow_typeof(id)
                FINE
        "#]],
    );
}

#[test]
fn predicates() {
    let predicate = |sql: &str| Predicate::compile(sql, &schema()).map_err(|error| error.to_string());
    check(
        &["id", "name", "id > 1", "speed + 1"],
        predicate,
        expect![[r#"
        id
            a condition must be BOOLEAN, but this is BIGINT
        name
            a condition must be BOOLEAN, but this is STRING
        id > 1
            FINE
        speed + 1
            a condition must be BOOLEAN, but this is DOUBLE
    "#]],
    );
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
        expect![[r#"
            *
                id=id price=price speed=speed name=name dateTime=dateTime stop=stop __weir_change=__weir_change
            price
                price=price
            stop.city
                city=stop.city
            price * 2 AS double
                double=price * 2
            price AS "the Price"
                the Price=price
            price * 2
                'price * 2' needs a name: write 'price * 2 AS name'
            upper(name)
                'upper(name)' needs a name: write 'upper(name) AS name'
            price double
                syntax error: before 'double' an operator is missing, or AS if it is the name of the result
            price * 2 double
                syntax error: before 'double' an operator is missing, or AS if it is the name of the result
            * EXCEPT (id)
                a * with additions cannot be used here: use * alone, or name the columns
            stop.*
                a * with additions cannot be used here: use * alone, or name the columns
            price AS
                syntax error: expected an identifier after AS, found: EOF
            price AS a, id AS b
                one expression is expected, but after it comes ', id AS b' (line 1, column 11)
            sum(price) AS x
                the aggregate function sum cannot be used here: an expression sees one row; list it under 'aggregates' of a window operator
            price AS ""
                'price' needs a name: write 'price AS name'
        "#]],
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
            "count(DISTINCT stop) AS n",
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
        expect![[r#"
            count(*) AS n
                n = count(*): BIGINT
            COUNT(price) AS n
                n = count(price): BIGINT
            count(DISTINCT name) AS n
                n = count distinct(name): BIGINT
            count(DISTINCT stop) AS n
                count(DISTINCT stop) would compare values of type ROW<city STRING>; count a field of it, or CAST it to STRING
            sum(price) AS total
                total = sum(price): BIGINT
            sum(speed * 2) AS total
                total = sum(speed * 2): DOUBLE
            sum(0.908 * price) AS total
                total = sum(0.908 * price): DECIMAL(38,3)
            avg(price) AS mean
                mean = avg(price): DOUBLE
            min(name) AS m
                m = min(name): STRING
            MAX(dateTime) AS m
                m = max(dateTime): TIMESTAMP(6)
            first(name) AS f
                f = first(name): STRING
            last(stop.city) AS l
                l = last(stop.city): STRING
            count(*) FILTER (WHERE price > 10 AND name LIKE 'a%') AS n
                n = count(*) where price > 10 AND name LIKE 'a%': BIGINT
            sum(price)
                'sum(price)' needs a name: write 'sum(price) AS name'
            count(*) n
                syntax error: before 'n' an operator is missing, or AS if it is the name of the result
            cuont(*) AS n
                no aggregate function 'cuont'; did you mean 'count'?; there are: count, sum, avg, min, max, first, last
            median(price) AS m
                no aggregate function 'median'; there are: count, sum, avg, min, max, first, last
            first_value(price) AS f
                no aggregate function 'first_value'; there are: count, sum, avg, min, max, first, last
            sum(name) AS s
                sum needs a number, not Utf8
            sum(*) AS s
                sum takes one argument, a column or an expression
            count() AS n
                count takes one argument: count(*), count(x) or count(DISTINCT x)
            count(DISTINCT *) AS n
                count takes one argument: count(*), count(x) or count(DISTINCT x)
            count(id, price) AS n
                count takes one argument: count(*), count(x) or count(DISTINCT x)
            sum(DISTINCT price) AS s
                DISTINCT in sum cannot be used here: only count(DISTINCT x) knows it; for min and max it changes nothing
            sum(price) + 1 AS s
                'sum(price) + 1 AS s' is not one call of an aggregate function with a name, such as sum(x) AS total; compute on its result in a project after the window
            price AS p
                'price AS p' is not one call of an aggregate function with a name, such as sum(x) AS total; compute on its result in a project after the window
            *
                '*' is not one call of an aggregate function with a name, such as sum(x) AS total; compute on its result in a project after the window
            sum(sum(price)) AS s
                the aggregate function sum cannot be used here: an expression sees one row; list it under 'aggregates' of a window operator
            sum(prize) AS s
                no column 'prize'; did you mean 'price'?; there are: id, price, speed, name, dateTime, stop
            count(*) FILTER (WHERE price) AS n
                a condition must be BOOLEAN, but this is BIGINT
            sum(price) OVER () AS s
                OVER in sum cannot be used here: the window operator says over which rows
            first(name ORDER BY id) AS f
                a clause after the argument in first cannot be used here: use FILTER (WHERE ...) to leave rows out
            min(stop) AS m
                min cannot compare values of type Struct("city": Utf8)
            sum(price) AS a, sum(id) AS b
                one expression is expected, but after it comes ', sum(id) AS b' (line 1, column 16)
        "#]],
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
        expect![[r#"
            price
                OrderItem { column: "price", is_descending: false }
            price ASC
                OrderItem { column: "price", is_descending: false }
            dateTime desc
                OrderItem { column: "dateTime", is_descending: true }
            prize
                no column 'prize'; did you mean 'price'?; there are: id, price, speed, name, dateTime, stop
            price + 1
                an order by 'price + 1' cannot be used here: it takes a column; compute the value in a project before
            price DESC NULLS FIRST
                NULLS FIRST or LAST cannot be used here: nulls always come last
            price, id
                one expression is expected, but after it comes ', id' (line 1, column 6)
            price DOWN
                one expression is expected, but after it comes 'DOWN' (line 1, column 7)
            (blank)
                the expression is empty; write a column or a SQL expression
        "#]],
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

//! Tests of the generator: pinned rows from an independent program, and the golden hash of NEXMark q0.

use arrow_array::cast::AsArray;
use arrow_array::types::{Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, RecordBatch};
use arrow_schema::DataType;
use expect_test::{Expect, expect};

use super::*;
use crate::nexmark::rules::mix;

fn generate(table: Table, rate: u64, blocks: Blocks) -> RecordBatch {
    let columns = table.project(None).expect("all columns exist");
    Generator::new(table, columns, rate).rows(blocks)
}

/// A field as the golden results spell it: timestamps as epoch milliseconds.
fn field(array: &dyn Array, row: usize, line: &mut String) {
    match array.data_type() {
        DataType::Int64 => write!(line, "{}", array.as_primitive::<Int64Type>().value(row)),
        DataType::Utf8 => line.write_str(array.as_string::<i32>().value(row)),
        _ => write!(line, "{}", array.as_primitive::<TimestampMicrosecondType>().value(row) / 1_000),
    }
    .expect("writing to memory cannot fail");
}

fn line(rows: &RecordBatch, row: usize) -> String {
    let mut line = String::new();
    for (index, column) in rows.columns().iter().enumerate() {
        line.push_str(if index > 0 { "|" } else { "" });
        field(column.as_ref(), row, &mut line);
    }
    line
}

/// Rows of the first two blocks and of the last block of a million events, against lines of an independent program.
fn check(table: Table, rows: &[usize], far_rows: &[usize], expected: Expect) {
    let near = generate(table, 1_000, Blocks { first: 0, stride: 1, count: 2 });
    let far = generate(table, 1_000, Blocks { first: 9_999, stride: 10_000, count: 2 });
    let mut lines: Vec<String> = rows.iter().map(|row| line(&near, *row)).collect();
    lines.extend(far_rows.iter().map(|row| line(&far, table.rows_per_block() + row)));
    expected.assert_eq(&(lines.join("\n") + "\n"));
}

#[test]
fn persons_are_those_of_the_rules() {
    check(
        Table::Person,
        &[0, 1],
        &[0],
        expect![[r#"
        1000|Vicky Walton|vicky@walton.example|pcoqozsowxfeffkjnup|Portland|WA|1700000000000|caqpbhvagreehqngejbgnnqbfvcbctkjnbdqsnefgoielsksjbnuhnctwfnybmqwxlcnfljjsijrnoadlswrqvhvpxzvnhowixoikjyfmuxeegoeycpi
        1001|John Bartels|john@bartels.example|xfoosxozpehzuskpyhp|Seattle|ID|1700000000050|xempexerpufyuqgmaqulaovtbdkvlufzsgfosifdoahivvbsttkrhoidshtbbwgtksspcahfxdgotmhjxgjxxkicbvwmbyvxqvmjgtmsbszgjdhtfhgiaoi
        20999|John Abrams|john@abrams.example|klymjskyzxtqvfszsxp|Bend|WY|1700000999950|hpybjsqwzgdhrfmemlihdujnzfjwbgaxzaxexrgtqhhxjakjmpzezdkzpxkkukwxskrarvpljdzrxjuaqgraxcfthpzhkpgxgjgaegyjnqvabxvoxilzovqgf
    "#]],
    );
}

#[test]
fn auctions_are_those_of_the_rules() {
    check(
        Table::Auction,
        &[0, 1, 2],
        &[0, 2],
        expect![[r#"
        1000|hfdruootjlcuad|efznxakbyhkqcllnngbvxtkatkvqeivjuqwtxzgtsscugzygopumocpboqxyhrjp|550867|581206|1700000000001|1700000000316|1002|10|nhdjianggsslosamteanbyelzmyqvpzvgxskdtwpqqwqorqwieygksbtckdxwutltwaeacnhtgapptcqoggsbkllwfpkgzuppmavkuduiklvpyhanahppmeurpzoqknqrnonptfrxbyywrqwfqtdrmybkzfpmfhvnnfgtwdoskyxmkblicxzkzavsgwsnxrhpejpuqptgkdnqjrgcqlabrryimogwppfakjasgeygjekvnligrvzmaqnorxcnnmrpexohpkbfuipgmantnmztrrsigepskkuwwkwtqyjswokkpsapkyqqeesptjpanfwnxahkqjxjqbdvwkcvsoniaftklnedqvshtl
        1001|dtg|aahbbdmycuadjpcgacbutcnoodcqhfvyzoqvg|4276|18575653|1700000000002|1700000002221|1003|12|iyyijovlzojjoejxgxulbgphwgdhbufqtjcpzqwhaziwvuvgcfjfxquxqfuscciaiipddixuogmmdotvubblvuankwbgoaphbgkuanfrqhymydubvcyuxdylzvzgwygjrtwppxroelfcqpblrpedjkdkqfqkkbvrbxvghifpjsajxaocnwiygnadlmjyhcscfynozsiegvgvsbauebcmbbxbbhdcxwvbwliqwppilneruvwauzqtobrpcmgwvchbmpuxaxasrglnpxxygxaaaesvijqxnyknkgxheuwmxsxtnitfwcemgchbsdyvzxlbsdjdrogpsvvmkvejorulykrckijtvakzchmpxavaqm
        1002|lfgqs|mftyjxxpqxyeudqfwxekitcfeqnuwwsaodlpvsb|6515908|6868080|1700000000003|1700000001971|1000|12|txqqkxpujtpkolcnippjbaginauhzmypledikwlfcjxzxhmddaabdbcfhzynoqcabadkgidyjzylwbycgnioszsyydiuqpcddmysthyrfzxlkqjzlpopzqsmoytxztytjpaghvaiknahewxqfhngblfaqwuacdjcvbgoowtmqytgdniyjfveobvpxrdyvbgcfijpgmatkxrqbjudrdqlyqegpqnjsafcnzssdsbmzvgzgsamxxgwgmmxxsuavpdzhnubujbrwrwxpfqadnzohrttsadwfcnmznyvmixondlqrtrbzrhvfszqgyzndtrgpdkvcoinfmhtlamyqzbdzsczvz
        60997|rgrup|ndjkhlfqknizixepqiqbrzy|27870073|27870395|1700000999951|1700001000335|20900|14|yluupgsqnvflnsvoxpyybxaqbeipgjrongopwhzenyaiclsuymivgvqprdierjlopfhajhrtamfecdqsvcczcecnahhkoaerhquvoabnhkpjpiwxszsckrpkoeegmoqnsxzwbhhijeqvuhuqbrfvtbaokwoudhotmjimmjyuofhgwlgyzwnhdilqutcoziglwyezlxhnhowtpywqvlryfdypaajjrprujzmjkvsxhehyfcylbtxmmxiqyzmragrknyibxcrowrkpjmqtiwuytxdauviopkdjidszpdlfcqzflliaaquemjnvclwhkvpnpnhcssxldjyzmmbseahkyckhfnuhqthxuvipzmhepavvfzvup
        60999|budxztqjbaggope|dqwfhijxqvwifmdvoapgegmqytcdvauwv|1679926|68935190|1700000999953|1700001001231|20152|10|csfyrbiyqcnjtstaqtcuesptkruwcofzxqiuxgwyrddfvkxwvtkjyujqxholmemwxuuetfunldhuuaiieflqdildshrgnvexmmugzbjvmnpzetmdegjdxbrxlijtednsaqniqbnzlywjjyhxnlfcbsljlesabhxkqxppmqkgvdnanokwindzsxkoclaqcnfxzanlmvhrpuxxpbgtbfyrobfrqrvxokcnhyattptudbrnjghtohxboamfzohykbgjastxdfdmurxwkntrmogpzjbydkxwzozcljapqrriijlblnlhcwjmnehfakhzlbzgjiozxmhwstukzwzvkjhfrnbpjsqjj
    "#]],
    );
}

#[test]
fn bids_are_those_of_the_rules() {
    check(
        Table::Bid,
        &[0, 1, 2],
        &[44, 45],
        expect![[r#"
        1004|1010|413|channel-9087|https://www.nexmark.com/abc/def/ghi/item.htm?query=1&channel_id=9087|1700000000004|kuhueynkkjfrqfewalozefpmidrquytsbyqqcvebnudeolnhyegcjcgjewaztsjr
        1007|1001|28371256|Baidu|https://www.nexmark.com/hot2/item.htm?query=1|1700000000005|anneezytvexrsyzjvjaiueltcwrsuyqgrxoxifuxzmwmgcljujkuojkubdfoobdnwangmzmmi
        1000|1000|5073396|channel-8175|https://www.nexmark.com/abc/def/ghi/item.htm?query=1&channel_id=8175|1700000000006|qriajdtfjvbfrtmcwvlouhsdknmrhytlcplvzeoelnwwukdsphzqrcgra
        61007|20953|801|Google|https://www.nexmark.com/hot0/item.htm?query=1|1700000999998|lmcsuylnsgfygiayvtliwcwqxtawcuesmiyijtxtziqtontwhtigffqadygrjziyaedbmu
        60914|20901|161829|Facebook|https://www.nexmark.com/hot1/item.htm?query=1|1700000999999|zyudmgfprllirkfqpdttzshtyciypjvhcwxocbkqtvhqjapomotzarwafcbfdqvmnexyioumsqqcgqt
    "#]],
    );
}

/// The rule of "The results" in `testdata/nexmark/README.md`.
fn row_hash(line: &str) -> u64 {
    let fnv = line
        .bytes()
        .fold(0xCBF2_9CE4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3));
    mix(fnv)
}

/// q0 is all bids without channel and url.
fn q0(rate: u64) -> String {
    let columns = vec![Column::Auction, Column::Bidder, Column::Price, Column::DateTime, Column::Extra];
    let mut generator = Generator::new(Table::Bid, columns, rate);
    let (mut count, mut hash) = (0, 0u64);
    for first in (0..20_000).step_by(200) {
        let rows = generator.rows(Blocks { first, stride: 1, count: 200 });
        count += rows.num_rows();
        hash = (0..rows.num_rows()).fold(hash, |hash, row| hash.wrapping_add(row_hash(&line(&rows, row))));
    }
    format!("q0 {count} 0 {hash:016x}")
}

#[test]
fn a_million_events_have_the_golden_hash_of_q0() {
    for (rate, golden) in [
        (1_000, include_str!("../../../../testdata/nexmark/golden-1M-rate1000.txt")),
        (100_000, include_str!("../../../../testdata/nexmark/golden-1M.txt")),
    ] {
        assert_eq!(Some(q0(rate).as_str()), golden.lines().find(|line| line.starts_with("q0 ")));
    }
}

#[test]
fn projected_columns_are_those_of_the_whole_table() {
    for table in [Table::Person, Table::Auction, Table::Bid] {
        let blocks = Blocks { first: 77, stride: 3, count: 40 };
        let whole = generate(table, 777, blocks);
        for field in whole.schema().fields() {
            let columns = table.project(Some(&[field.name().clone()])).expect("the column exists");
            let alone = Generator::new(table, columns, 777).rows(blocks);
            assert_eq!(Some(alone.column(0)), whole.column_by_name(field.name()), "{}", field.name());
        }
    }
}

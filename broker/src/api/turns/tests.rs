use proptest::prelude::*;

use super::*;

const SMALL: Limits = Limits { doing: 3, doing_of_one: 2, of_one: 4, bytes: 100, bytes_of_one: 50 };

/// Does what a line says: `+a` and `+a40` a request of `a` comes (with so many bytes), `>` what may begin does, `-a` the
/// oldest of `a` that has begun is done. Answers what began (`a`), and what was refused (`!a`).
fn play(script: &str) -> String {
    let mut turns = Turns::new(SMALL);
    let mut begun: Vec<(Turn, &str)> = Vec::new();
    let mut said = Vec::new();
    for word in script.split_whitespace() {
        let (what, rest) = word.split_at(1);
        let (account, bytes) = rest.split_at(rest.len().min(1));
        match what {
            "+" => {
                if let Err(account) = turns.arrive(account, bytes.parse().unwrap_or(0), account) {
                    said.push(format!("!{account}"));
                }
            }
            ">" => {
                while let Some((turn, account)) = turns.start() {
                    said.push(account.to_owned());
                    begun.push((turn, account));
                }
            }
            "-" => {
                let at = begun.iter().position(|(_, of)| *of == account).expect("it has begun");
                turns.done(begun.remove(at).0);
            }
            "x" => drop(turns.forget_waiting()),
            other => panic!("{other}"),
        }
    }
    assert_eq!(turns.doing(), begun.len());
    for (turn, _) in begun {
        turns.done(turn);
    }
    turns.forget_waiting();
    assert!(turns.accounts.is_empty() && turns.line.is_empty());
    assert_eq!((turns.doing, turns.waiting, turns.bytes), (0, 0, 0));
    said.join(" ")
}

#[test]
fn accounts_take_turns() {
    for (script, wanted) in [
        ("+a > +b >", "a b"),
        // Nobody has more than two at a time, and all have three.
        ("+a +a +a > +b +b >", "a a b"),
        ("+a +a +a > +b +b > -a >", "a a b b"),
        ("+a +a +a > +b +b > -a > -b >", "a a b b a"),
        // Who came late waits for one turn of each, not for all that was there before.
        ("+a +a +a +b +b +b +c >", "a b c"),
        ("+a +a +a +b +b +b +c > -a > -b > -c >", "a b c a b a"),
        // The fifth of one is refused, another's is not.
        ("+a +a +a +a +a +b >", "!a a b a"),
        ("+a +a +a +a > -a +a +a", "a a !a"),
        // Bytes: one of any size, and then so many, of one and of all.
        ("+a99 >", "a"),
        ("+a40 +a20 +a10 >", "!a a a"),
        ("+a50 +b50 +c1 >", "!c a b"),
        ("+a50 +b50 > -a +c1 >", "a b c"),
        // What has not begun is forgotten with the connection.
        ("+a +a +a +a > x +a +b >", "a a b"),
    ] {
        assert_eq!(play(script), wanted, "{script}");
    }
}

#[derive(Clone, Debug)]
enum Step {
    Arrive(u8, usize),
    Start,
    Done(usize),
    Forget,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0_u8..5, 0_usize..60).prop_map(|(account, bytes)| Step::Arrive(account, bytes)),
        // One account that floods.
        8 => Just(Step::Arrive(0, 0)),
        6 => Just(Step::Start),
        6 => (0_usize..8).prop_map(Step::Done),
        1 => Just(Step::Forget),
    ]
}

proptest! {
    /// From when an account has something that may begin until it does, each other account has one turn at the most.
    #[test]
    fn nobody_waits_for_more_than_one_turn_of_each_other(
        steps in proptest::collection::vec(step(), 1..300),
    ) {
        let mut turns = Turns::new(SMALL);
        let mut begun: Vec<(Turn, u8)> = Vec::new();
        let mut waiting = [0_usize; 5];
        // For each account that waits and may begin: the turns of the others since.
        let mut since: [Option<[usize; 5]>; 5] = [None; 5];
        for step in steps {
            match step {
                Step::Arrive(account, bytes) => {
                    let doing = begun.iter().filter(|(_, of)| *of == account).count();
                    let has = waiting[usize::from(account)] + doing;
                    let taken = turns.arrive(&account.to_string(), bytes, account).is_ok();
                    prop_assert!(!taken || has < SMALL.of_one);
                    // Who has nothing is refused for nobody's number, only for all bytes together.
                    prop_assert!(taken || has > 0 || turns.bytes + bytes > SMALL.bytes);
                    waiting[usize::from(account)] += usize::from(taken);
                }
                Step::Start => {
                    let may = turns.doing() < SMALL.doing && since.iter().any(Option::is_some);
                    let started = turns.start();
                    prop_assert_eq!(started.is_some(), may, "nothing idles while somebody may");
                    if let Some((turn, account)) = started {
                        let index = usize::from(account);
                        waiting[index] -= 1;
                        since[index] = None;
                        for others in since.iter_mut().flatten() {
                            others[index] += 1;
                            prop_assert!(others[index] <= 1, "{} had two turns", account);
                        }
                        begun.push((turn, account));
                    }
                }
                Step::Done(n) if !begun.is_empty() => {
                    let (turn, _) = begun.remove(n % begun.len());
                    turns.done(turn);
                }
                Step::Done(_) => {}
                Step::Forget => {
                    prop_assert_eq!(turns.forget_waiting().len(), waiting.iter().sum::<usize>());
                    waiting = [0; 5];
                    since = [None; 5];
                }
            }
            for account in 0_u8..5 {
                let index = usize::from(account);
                let doing = begun.iter().filter(|(_, of)| *of == account).count();
                prop_assert!(doing <= SMALL.doing_of_one);
                let may = waiting[index] > 0 && doing < SMALL.doing_of_one;
                since[index] = may.then(|| since[index].unwrap_or_default());
            }
            prop_assert!(turns.doing() <= SMALL.doing);
            prop_assert_eq!(turns.waiting(), waiting.iter().sum::<usize>());
            prop_assert!(turns.bytes <= SMALL.bytes || turns.doing() + turns.waiting() == 1);
        }
    }
}

use super::*;

mod simulation;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn lease(holder: &str, term: u64, version: &str) -> Lease {
    let holder = (!holder.is_empty()).then(|| holder.to_owned());
    Lease { holder, term, version: version.to_owned() }
}

fn word(from: &str, holder: &str, term: u64) -> Word {
    let holder = (!holder.is_empty()).then(|| holder.to_owned());
    Word { from: from.to_owned(), holder, term }
}

/// In few words, for tables.
fn show(actions: &[Action]) -> String {
    let holder = |lease: &Lease| lease.holder.clone().unwrap_or_else(|| "-".to_owned());
    let one = |action: &Action| match action {
        Action::Ping(word) => format!("ping {}", word.term),
        Action::Pong { to, word } => format!("pong {to} {}", word.term),
        Action::Rejoin => "rejoin".to_owned(),
        Action::Read => "read".to_owned(),
        Action::Take(lease) => format!("take {}@{}:{}", holder(lease), lease.term, lease.version),
        Action::Renew(lease) => format!("renew {}@{}", holder(lease), lease.term),
        Action::Release(lease) => format!("release {}@{}", holder(lease), lease.term),
        Action::Lead(term) => format!("lead {term}"),
        Action::StepDown => "step down".to_owned(),
        Action::Done => "done".to_owned(),
    };
    actions.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// The state that the table names, at one second, with nothing due for a while.
fn in_state(name: &str) -> Election {
    let mut e = Election::new("me", Timing::BROKER, ms(50), ms(0));
    let now = ms(1000);
    let steps: &[Input] = match name {
        "new" => &[],
        "standby, away" => &[Input::Tick, Input::Lease(lease("a", 3, "9"))],
        "standby, there" => &[Input::Tick, Input::Lease(lease("a", 3, "9")), Input::Joined],
        "standby, answered" => &[
            Input::Tick,
            Input::Lease(lease("a", 3, "9")),
            Input::Joined,
            Input::Pong(word("a", "a", 3)),
        ],
        "leading, away" => {
            &[Input::Tick, Input::Lease(lease("", 3, "9")), Input::Lease(lease("me", 4, "10"))]
        }
        "leading, active" => &[
            Input::Tick,
            Input::Lease(lease("me", 4, "10")),
            Input::Joined,
            Input::Ping(word("me", "me", 4)),
        ],
        "leaving" => &[Input::Tick, Input::Lease(lease("me", 4, "10")), Input::Leave],
        other => panic!("{other}"),
    };
    e.stepped = now;
    for input in steps {
        e.step(now, input.clone());
    }
    e
}

/// Every input in every state, what is done at once.
#[test]
fn each_input_in_each_state() {
    let inputs = [
        Input::Tick,
        Input::Joined,
        Input::Parted,
        Input::Ping(word("me", "a", 3)),
        Input::Ping(word("b", "a", 3)),
        Input::Ping(word("a", "a", 3)),
        Input::Ping(word("b", "b", 7)),
        Input::Pong(word("a", "a", 3)),
        Input::Pong(word("b", "b", 7)),
        Input::Lease(lease("a", 5, "11")),
        Input::Lease(lease("me", 5, "11")),
        Input::Lease(lease("", 5, "11")),
        Input::Conflict,
        Input::Failed,
        Input::Fenced(4),
        Input::Fenced(2),
        Input::Leave,
    ];
    let states = [
        "new",
        "standby, away",
        "standby, there",
        "standby, answered",
        "leading, away",
        "leading, active",
        "leaving",
    ];
    let mut table = String::new();
    for state in states {
        table += &format!("{state}\n");
        for input in &inputs {
            let mut e = in_state(state);
            let actions = show(&e.step(ms(1100), input.clone()));
            if !actions.is_empty() {
                let input = format!("{input:?}").replace("from: ", "").replace("holder: ", "");
                table += &format!("  {input}: {actions}\n");
            }
        }
    }
    expect_test::expect_file!["tests/table.txt"].assert_eq(&table);
}

/// Runs with a tick each 50 ms and no other input; what is done, and when.
fn alone(
    e: &mut Election,
    from: u64,
    until: u64,
    input: impl Fn(&Action) -> Option<Input>,
) -> String {
    let mut said = Vec::new();
    for now in (from..until).step_by(50) {
        let mut inputs = vec![Input::Tick];
        while let Some(next) = inputs.pop() {
            for action in e.step(ms(now), next) {
                inputs.extend(input(&action));
                if !matches!(action, Action::Ping(_) | Action::Read) {
                    said.push(format!("{now}: {}", show(&[action])));
                }
            }
        }
    }
    said.join("; ")
}

#[test]
fn how_long_silence_may_last() {
    let same = |action: &Action| match action {
        Action::Read => Some(Input::Lease(lease("a", 3, "9"))),
        _ => None,
    };
    for (state, expected) in [
        ("standby, answered", "2050: take me@4:9"),
        ("standby, there", "3050: take me@4:9"),
        ("standby, away", "11050: take me@4:9"),
    ] {
        assert_eq!(alone(&mut in_state(state), 1000, 12_000, same), expected, "{state}");
    }
    // Renewed once while the broker is away, and then no more.
    let mut e = in_state("standby, away");
    e.step(ms(1000), Input::Lease(lease("a", 3, "10")));
    let renewed = |action: &Action| match action {
        Action::Read => Some(Input::Lease(lease("a", 3, "10"))),
        _ => None,
    };
    assert_eq!(alone(&mut e, 1000, 12_000, renewed), "3050: take me@4:10");
    // Where the API fails as well, nobody can have renewed it.
    let fails = |action: &Action| matches!(action, Action::Read).then_some(Input::Failed);
    assert_eq!(alone(&mut in_state("standby, away"), 1000, 60_000, fails), "");
    // Nor does one who was stopped itself know what happened meanwhile.
    let mut e = in_state("standby, answered");
    assert_eq!(show(&e.step(ms(60_000), Input::Tick)), "ping 3, read");
}

#[test]
fn a_ping_that_comes_back_says_that_the_leader_is_gone() {
    let back = Input::Ping(word("me", "a", 3));
    assert_eq!(show(&in_state("standby, answered").step(ms(1010), back.clone())), "take me@4:9");
    // One that never answered here may only be on its way.
    assert_eq!(show(&in_state("standby, there").step(ms(1010), back)), "");
}

#[test]
fn a_leader_renews_only_while_the_broker_does_not_show_it() {
    let renewed = |action: &Action| match action {
        Action::Renew(lease) => {
            Some(Input::Lease(Lease { version: format!("{}1", lease.version), ..lease.clone() }))
        }
        Action::Read => Some(Input::Lease(lease("me", 4, "10"))),
        _ => None,
    };
    assert_eq!(alone(&mut in_state("leading, active"), 1000, 20_000, renewed), "");
    let said = alone(&mut in_state("leading, away"), 1000, 3000, renewed);
    assert_eq!(said.matches("renew me@4").count(), 3, "{said}");
}

#[test]
fn a_lease_that_was_deleted_begins_no_old_term() {
    let mut e = in_state("leading, active");
    assert_eq!(show(&e.step(ms(1100), Input::Fenced(4))), "step down, rejoin");
    assert_eq!(show(&e.step(ms(1300), Input::Tick)), "ping 4, read");
    assert_eq!(show(&e.step(ms(1310), Input::Lease(Lease::default()))), "");
    assert_eq!(show(&e.step(ms(1400), Input::Tick)), "take me@5:");
}

/// A restore takes the Lease back to an earlier leader, which lives.
#[test]
fn a_lower_term_that_leads_is_looked_at() {
    let ping = Input::Ping(word("a", "a", 3));
    let mut e = in_state("leading, active");
    assert_eq!(show(&e.step(ms(1100), ping.clone())), "pong a 4");
    assert_eq!(show(&e.step(ms(1300), Input::Tick)), "read");
    let restored = Input::Lease(lease("a", 3, "8"));
    assert_eq!(show(&e.step(ms(1310), restored)), "step down, rejoin, ping 3");
    // What the Lease says is no news.
    assert_eq!(show(&e.step(ms(1700), ping)), "rejoin, ping 3");
}

#[test]
fn who_leaves_gives_the_lease_back() {
    let mut e = in_state("leading, active");
    assert_eq!(show(&e.step(ms(1100), Input::Leave)), "step down, release -@4");
    assert_eq!(show(&e.step(ms(1110), Input::Tick)), "");
    assert_eq!(show(&e.step(ms(1120), Input::Lease(lease("", 4, "11")))), "done");
    // Also what was taken in the last moment.
    let mut e = in_state("standby, answered");
    let back = Input::Ping(word("me", "a", 3));
    assert_eq!(show(&e.step(ms(1010), back)), "take me@4:9");
    assert_eq!(show(&e.step(ms(1020), Input::Leave)), "");
    assert_eq!(show(&e.step(ms(1030), Input::Lease(lease("me", 4, "10")))), "release -@4");
    assert_eq!(show(&e.step(ms(1040), Input::Failed)), "done");
}

use super::*;

fn request(method: &str, body: &str) -> ApiRequest {
    ApiRequest {
        method: method.to_owned(),
        path: "/x".to_owned(),
        body: body.to_owned().into(),
        ..ApiRequest::default()
    }
}

fn answer(code: u16, bytes: usize) -> Arc<ApiAnswer> {
    Arc::new(ApiAnswer { code, body: vec![b'x'; bytes].into(), ..ApiAnswer::default() })
}

struct World {
    desk: Desk<u32>,
    now: Instant,
    next: u32,
}

impl World {
    fn new() -> Self {
        Self { desk: Desk::default(), now: Instant::now(), next: 0 }
    }

    fn ask(&mut self, account: &str, id: &str, request: &ApiRequest) -> Verdict<u32> {
        self.next += 1;
        let arrival = Arrival {
            account: Some(account).filter(|a| !a.is_empty()),
            id: Some(id).filter(|id| !id.is_empty()),
            request,
            arrived: self.now,
            patience: Duration::from_secs(1),
        };
        self.desk.arrive(self.now, &arrival, self.next)
    }

    #[track_caller]
    fn ticket(&mut self, account: &str, id: &str, request: &ApiRequest) -> Ticket<u32> {
        match self.ask(account, id, request) {
            Verdict::Do(ticket) => ticket,
            other => panic!("{}", word(&other)),
        }
    }

    fn said(&mut self, account: &str, id: &str, request: &ApiRequest) -> &'static str {
        word(&self.ask(account, id, request))
    }
}

fn word(verdict: &Verdict<u32>) -> &'static str {
    match verdict {
        Verdict::Do(_) => "do",
        Verdict::Joined => "joined",
        Verdict::Answered(..) => "answered",
        Verdict::Refused(..) => "refused",
        Verdict::Late(_) => "late",
    }
}

#[test]
fn an_answer_is_for_whom_it_was_asked() {
    let as_user = |user: &str, agent: &str| ApiRequest {
        headers: vec![
            ("impersonate-user".to_owned(), user.to_owned()),
            ("user-agent".to_owned(), agent.to_owned()),
        ],
        ..request("POST", "a")
    };
    let mut world = World::new();
    let ticket = world.ticket("node-a", "1", &as_user("system:broker:x", "one"));
    assert_eq!(world.said("node-a", "1", &as_user("system:broker:y", "one")), "refused");
    assert_eq!(world.said("node-a", "1", &request("POST", "a")), "refused");
    assert_eq!(world.said("node-a", "1", &as_user("system:broker:x", "two")), "joined");
    let now = world.now;
    world.desk.done(now, ticket, &answer(201, 3));
    assert_eq!(world.said("node-a", "1", &as_user("system:broker:y", "one")), "refused");
    assert_eq!(world.said("node-a", "1", &as_user("system:broker:x", "one")), "answered");
}

#[test]
fn a_change_is_done_once() {
    let (mut world, post) = (World::new(), request("POST", "a"));
    let ticket = world.ticket("me", "1", &post);
    assert_eq!(world.said("me", "1", &post), "joined");
    assert_eq!(world.said("me", "1", &request("POST", "b")), "refused");
    let other = world.ticket("other", "1", &post);
    let now = world.now;
    assert_eq!(world.desk.done(now, ticket, &answer(201, 3)), [1, 2], "both are told");
    assert_eq!(world.desk.done(now, other, &answer(201, 3)), [4]);
    for seconds in [0, 599] {
        world.now = now + Duration::from_secs(seconds);
        match world.ask("me", "1", &post) {
            Verdict::Answered(_, answer) => assert_eq!(answer.code, 201),
            other => panic!("{}", word(&other)),
        }
    }
    assert_eq!(world.said("me", "1", &request("PUT", "a")), "refused");
    world.now = now + REMEMBERED_FOR;
    assert_eq!(world.said("me", "1", &post), "do");
    assert_eq!((world.desk.order.len(), world.desk.bytes), (0, 0));
}

#[test]
fn reads_and_what_has_no_id_are_done_each_time() {
    let mut world = World::new();
    for (id, request) in [("1", request("GET", "")), ("", request("POST", "a"))] {
        let tickets = [(); 2].map(|()| world.ticket("me", id, &request));
        for ticket in tickets {
            let now = world.now;
            assert_eq!(world.desk.done(now, ticket, &answer(200, 1)).len(), 1);
        }
        assert_eq!(world.said("me", id, &request), "do");
    }
}

#[test]
fn what_could_not_be_done_may_be_asked_for_again() {
    let (mut world, post) = (World::new(), request("POST", "a"));
    for code in [429, 503] {
        let ticket = world.ticket("me", "1", &post);
        let now = world.now;
        world.desk.done(now, ticket, &answer(code, 1));
    }
    assert_eq!(world.said("me", "1", &post), "do");
}

#[test]
fn what_is_given_up_may_be_asked_for_again() {
    let (mut world, post) = (World::new(), request("POST", "a"));
    let ticket = world.ticket("me", "1", &post);
    assert_eq!(world.said("me", "1", &post), "joined");
    assert_eq!(world.desk.abandon(ticket), [1, 2], "both are told");
    let ticket = world.ticket("me", "1", &request("POST", "b"));
    assert_eq!(world.desk.abandon(ticket), [3]);
    assert!(world.desk.known.is_empty());
}

#[test]
fn nobody_waits_for_ever() {
    let (mut world, get) = (World::new(), request("GET", ""));
    let arrival = |arrived| Arrival {
        account: None,
        id: None,
        request: &get,
        arrived,
        patience: Duration::from_secs(1),
    };
    let early = world.now;
    let now = early + Duration::from_secs(1);
    assert_eq!(word(&world.desk.arrive(now, &arrival(early), 0)), "late");
    assert_eq!(word(&world.desk.arrive(now, &arrival(now), 0)), "do");
}

#[test]
fn memory_is_bounded() {
    let (mut world, post) = (World::new(), request("POST", "a"));
    let large = answer(200, MAX_REMEMBERED_BYTES / 4 + 1);
    for n in 0..9 {
        let ticket = world.ticket("me", &n.to_string(), &post);
        let now = world.now;
        world.desk.done(now, ticket, &large);
        assert!(world.desk.bytes <= MAX_REMEMBERED_BYTES);
    }
    assert_eq!(world.said("me", "8", &post), "answered");
    assert_eq!(world.said("me", "0", &post), "do");
    for n in 0..MAX_REMEMBERED + 9 {
        let ticket = world.ticket("me", &format!("x{n}"), &post);
        let now = world.now;
        world.desk.done(now, ticket, &answer(200, 1));
    }
    assert!(world.desk.order.len() <= MAX_REMEMBERED);
    assert!(world.desk.known.len() <= MAX_REMEMBERED + 1, "and one that is being done");
}

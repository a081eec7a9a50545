"""Phrases of the offline backend's explanations, by language; data only.

A sentence template holds {e} (the entity) and any of {k} (what it is), {a} (what is said of it), {c} (a noun of the
sentence), {x} (an opening), {f} (a closing). ``KINDS`` and ``ABOUT`` go by category of the entity's type. Korean
templates join {e} only to particles that do not depend on its last sound.
"""

from __future__ import annotations

CATEGORIES = (
    "person", "people", "place", "country", "organization", "product", "work", "event", "time", "number", "other",
)  # fmt: skip

# Parts of a type name (upper case, split at "." "_" "-" and blanks) -> category; the whole name is tried first.
TYPE_CATEGORIES = {
    "person": "PER PERSON PERS 人名 人物 姓名 NAME ACTOR DIRECTOR CHARACTER ARTIST 演员 导演 인명 사람",
    "people": "PER.NOM NOM NORP 称谓 职业 亲属称谓 NATIONALITY 民族 役職名 職業 직책",
    "place": "LOC LOCATION FAC FACILITY 地名 地点 场所 设施 SCENE ADDRESS 地址 景点 施設名 場所 지명 장소",
    "country": "GPE COUNTRY CITY 国家 城市 地缘政治实体 GEOPOLITICAL 국가 도시 国名",
    "organization": "ORG ORGANIZATION COMPANY CORP CORPORATION GROUP GOVERNMENT 机构 机构名 组织 组织机构 公司 政府 法人名 政治的組織名 "
    "その他の組織名 組織名 기관 회사",
    "product": "PRODUCT PROD 产品 品牌 商品 VEHICLE FOOD 食品 製品名 제품",
    "work": "WORK WORK_OF_ART TITLE BOOK MOVIE SONG GAME CREATIVE GENRE PLOT 作品 书名 影视 电影 歌曲 游戏 作品名 작품",
    "event": "EVENT EVE 事件 活动 比赛 节日 イベント名 사건 행사",
    "time": "TIME DATE YEAR 时间 日期 年份 日付 時間 날짜 시간",
    "number": "NUM NUMBER CARDINAL ORDINAL QUANTITY MONEY PERCENT RATING AGE 数量 数字 金额 百分比 数量詞 수량 금액",
    "other": "MISC OTHER OTHERS 其他 专有名词 その他 기타",
}

KINDS = {
    "zh": {
        "person": "大家常常提到的一个人|身边人都很熟悉的名字|一个很有自己想法的人|圈子里小有名气的人物|一个做事认真的人|许多人关注的人物",
        "people": "生活里常见的一类人|大家都很熟悉的角色|故事里绕不开的人|最让人牵挂的人|每天都会遇到的人|值得多说几句的人",
        "place": "一个很有特色的地方|当地人常去的地方|值得专门走一趟的地方|许多人留下回忆的地方|附近有名的去处|让人放松的地方",
        "country": "一个有自己历史和生活方式的地方|许多人向往的地方|变化很快的地方|不少人工作和生活的地方|各有各的故事的地方|新闻里常出现的地名",
        "organization": "一家大家都听说过的机构|做事比较正规的单位|这些年发展很快的机构|不少人工作过的地方|服务很多人的组织|口碑还不错的机构",
        "product": "最近很受欢迎的东西|不少人每天都在用的东西|价格和质量都被讨论过的产品|朋友之间常推荐的东西|用过就会记住的产品|一款有特点的产品",
        "work": "一部让人印象很深的作品|年轻人很喜欢的作品|讨论了很久的作品|值得慢慢欣赏的作品|风格很鲜明的一类作品|看过就忘不了的作品",
        "event": "一件很受关注的事情|每年都有人期待的活动|大家一起参加的活动|影响不小的一件事|准备了很久的活动|让很多人记住的日子",
        "time": "一个特别的时间|大家都记得的时间|事情发生的时候|常被提起的日子|安排好的时间|很容易错过的时间",
        "number": "一个很具体的数字|大家算过的数目|说明问题的一个数字|并不算小的数目|反复核对过的数字|很多人关心的数目",
        "other": "大家常说起的一个名字|这里的一个关键词|很多人感兴趣的话题|有自己来历的一个说法|值得了解一下的内容|常常出现的一个名称",
    },
    "en": {
        "person": "a person many people talk about|a familiar name to those who follow the story"
        "|someone with a long career"
        "|a figure known for careful work|a person whose choices drew attention|someone people still remember",
        "people": "a group that appears in many such stories|a role most readers know well"
        "|a group with its own customs"
        "|people with a shared background|a community with a long history|people who were part of these events",
        "place": "a place with a character of its own|a well-known spot in the area|a place that visitors ask about"
        "|a part of the region with a long history|a place that changed a lot over the years"
        "|a familiar point on the map",
        "country": "a place with its own history and customs|a place that appears often in the news"
        "|a region with many towns and roads"
        "|a place where several cultures meet|a place many people moved to|an area with a mixed economy",
        "organization": "an organization with members in many places|a body with a clear purpose"
        "|a group founded several decades ago"
        "|an institution known beyond its home town|an organization that employs many people"
        "|a group with a loyal following",
        "product": "a product that sold well|a product many households knew|a model with several later versions"
        "|an item that people still collect|a product with a simple design|a brand with a long history",
        "work": "a work that found a wide audience|a title critics wrote about|a work with a style of its own"
        "|a title that was released more than once|a work often named as an influence|a title people still look for",
        "event": "an event that drew many visitors|an event remembered for its size|an occasion held again and again"
        "|an event that changed many plans|an occasion with a long tradition|an event that made the news",
        "time": "a time many people still remember|the period in question|a date that appears in several records"
        "|the moment when things began to move|a period with many changes|a date fixed long in advance",
        "number": "a figure that was checked twice|a number that says a lot|the amount given in the report"
        "|a figure larger than expected|a number that later rose|the figure most people quote",
        "other": "a name that comes up again and again|a term with a history of its own|a name known to most readers"
        "|a subject that people still discuss|a name used in several places|a term that needs a short note",
    },
    "ja": {
        "person": "多くの人に知られている人物|長く活動してきた人物|周囲から信頼される人物|この分野でよく名前が挙がる人物",
        "people": "よく知られた役割の人々|身近な存在|長い歴史を持つ集団|話の中心になる人々",
        "place": "訪れる人の多い場所|地域でよく知られた場所|古くから親しまれている場所|特色のある土地",
        "country": "独自の歴史を持つ土地|多くの人が暮らす地域|よく話題になる地域|文化の交わる土地",
        "organization": "広く知られた組織|長い歴史を持つ組織|多くの人が関わる組織|地域に根ざした組織",
        "product": "長く使われている製品|人気のある製品|特徴のはっきりした製品|広く知られた製品",
        "work": "多くの人に親しまれた作品|高い評価を受けた作品|印象に残る作品|今も語られる作品",
        "event": "大きな注目を集めた出来事|毎回多くの人が集まる行事|長く記憶に残る出来事|準備に時間をかけた行事",
        "time": "多くの人が覚えている時期|変化の大きかった時期|節目となる時期|記録に残る時期",
        "number": "よく引用される数字|予想より大きな数字|確認された数字|目安になる数字",
        "other": "よく話題になる名前|独自の背景を持つ言葉|広く知られた名前|説明の必要な言葉",
    },
    "ko": {
        "person": "많은 사람에게 알려진 인물|오랫동안 활동해 온 인물|주변의 신뢰를 받는 인물|자주 이름이 오르는 인물",
        "people": "누구나 아는 역할의 사람들|가까이에서 볼 수 있는 사람들|오랜 역사를 가진 집단|이야기의 중심에 있는 사람들",
        "place": "찾는 사람이 많은 곳|지역에서 잘 알려진 곳|오래전부터 사랑받아 온 곳|나름의 특색이 있는 곳",
        "country": "고유한 역사를 가진 곳|많은 사람이 살아가는 지역|자주 화제가 되는 지역|여러 문화가 만나는 곳",
        "organization": "널리 알려진 조직|오랜 역사를 가진 조직|많은 사람이 참여하는 조직|지역에 뿌리를 둔 조직",
        "product": "오래 쓰여 온 제품|인기가 많은 제품|특징이 뚜렷한 제품|널리 알려진 제품",
        "work": "많은 사람이 아끼는 작품|높은 평가를 받은 작품|인상에 남는 작품|지금도 이야기되는 작품",
        "event": "큰 관심을 모은 일|해마다 많은 사람이 모이는 행사|오래 기억에 남는 일|오랫동안 준비한 행사",
        "time": "많은 사람이 기억하는 때|변화가 컸던 시기|중요한 고비가 된 시기|기록에 남은 때",
        "number": "자주 인용되는 숫자|예상보다 큰 숫자|여러 번 확인된 숫자|기준이 되는 숫자",
        "other": "자주 화제가 되는 이름|나름의 배경을 가진 말|널리 알려진 이름|설명이 필요한 말",
    },
}

ABOUT = {
    "zh": {
        "person": "说话直接，做事也很认真|平时不怎么张扬，关键时候很可靠|有自己的坚持，也愿意听别人的意见|这些年一直没有停下来|对朋友很真诚|总能给人带来一点惊喜",
        "people": "也有自己的烦恼和快乐|总是在忙着照顾别人|嘴上不说，心里都明白|其实比看上去更辛苦|需要多一点理解和陪伴|每个人都有不一样的故事",
        "place": "周末人特别多|早上去最安静|交通方便，吃的也多|变化很大，但是味道没变|拍照很好看|离市中心不算太远",
        "country": "节奏很快，机会也多|有很多好吃的和好看的|冬天和夏天完全是两种样子|每年都有很多人来|新旧建筑混在一起|生活成本越来越高",
        "organization": "最近动作不少|一直在招人|服务态度有好有坏|对外说得很少，做得不少|在当地影响很大|每年都会办几次活动",
        "product": "用起来很顺手|价格不算便宜|出了新款以后更受欢迎|包装简单，质量不错|评价有好有坏|很多人排队买",
        "work": "情节不复杂，但是很打动人|音乐和画面都很讲究|看第二遍会有新的感觉|节奏有点慢|很多台词被反复引用|结局让人意外",
        "event": "准备工作很早就开始了|现场气氛很热烈|来的人比预想的多|过程并不顺利|网上讨论得很热闹|结束以后还有人在谈",
        "time": "正好碰上大家都有空|比原来计划的要早|天气也很合适|很多事情都挤在一起|让人又期待又紧张|过得特别快",
        "number": "比去年多了一些|听起来不多，加起来就可观了|和大家估计的差不多|是反复比较以后得出的|以后可能还会变|让不少人吃了一惊",
        "other": "背后有一段不短的来历|每个人的理解都不太一样|了解以后会觉得很有意思|最近又热了起来|和平时的生活关系很近|说起来简单，做起来不容易",
    },
    "en": {
        "person": "worked with the same people for years|rarely gave interviews"
        "|was praised for patience and clear words"
        "|kept in touch with old friends|had started out in a much smaller role|was known for a dry sense of humor",
        "people": "had their own view of what happened|were mentioned in several letters|kept many of the old customs"
        "|took part from the beginning|were often asked for advice|lived close to one another",
        "place": "is easy to reach by road|is busiest in the summer|was rebuilt after a fire"
        "|has a small museum about the early days"
        "|lies close to the water|looks quite different in winter",
        "country": "has changed a great deal since then|draws visitors from many places"
        "|has a long coast and a dry interior"
        "|kept close ties with its neighbors|is known for its food and music|has a young population",
        "organization": "moved to a larger building|publishes a report every year|depends on its members"
        "|was reorganized more than once"
        "|runs several programs for young people|started with only a handful of people",
        "product": "came in several colors|was cheaper than its rivals|needed very little care"
        "|was sold in many countries"
        "|got better with each version|was copied by others",
        "work": "took two years to finish|was well received abroad|has a slow beginning and a strong end"
        "|mixes several styles"
        "|was recorded in a small studio|reached a new audience much later",
        "event": "lasted longer than planned|took months to prepare|brought people together from all over"
        "|was covered by the local press"
        "|ended without a clear result|is held in a different town each time",
        "time": "saw more changes than the years before|was remembered for its weather|left little room for rest"
        "|came earlier than expected|marked a turning point|passed quietly for most people",
        "number": "was close to the first estimate|rose a little later on|surprised most observers"
        "|includes only part of the total"
        "|was reported by two sources|has to be read with care",
        "other": "means different things to different people|appeared in print soon after|goes back to an older word"
        "|was easy to remember|is still in use|caused some confusion at first",
    },
}
_SHARED_ABOUT = {
    "ja": "地元でも話題になった|長い間にわたって支持されてきた|少しずつ形を変えてきた|多くの記録に残っている|今後も注目される|早くから期待されていた",
    "ko": "지역에서도 화제가 되었다|오랫동안 지지를 받아 왔다|조금씩 모습을 바꾸어 왔다|여러 기록에 남아 있다|앞으로도 주목을 받을 것이다|일찍부터 기대를 모았다",
}
ABOUT |= {lang: {category: phrases for category in CATEGORIES} for lang, phrases in _SHARED_ABOUT.items()}

OPENINGS = {
    "zh": "说起来|其实|最近|这几天|平时|以前|据说|在我看来|对很多人来说|说实话|这么多年|在朋友圈里|不管怎么样|老实说",
    "en": "In those days|By most accounts|For many readers|At the time|As it turned out"
    "|In the years that followed|Among friends"
    "|From the start|In this case|Looking back|At first|Back then|In many ways|Over time",
    "ja": "当時|実は|近年|この頃|一般に|多くの人にとって|振り返ると|地元では",
    "ko": "당시에|사실|최근|요즘|일반적으로|많은 사람에게|돌이켜 보면|지역 안에서",
}
CLOSINGS = {
    "zh": "大家都这么说|让人印象很深|想想还挺有意思|一点也不奇怪|以后应该还会听到|这一点没有人怀疑|看到的人都记住了|多少有点让人意外|"
    "也算是一种缘分|慢慢就习惯了|难怪有这么多人喜欢|说到这里就想笑",
    "en": "and few people were surprised|and that has hardly changed|as several people noted"
    "|and the details are easy to find"
    "|which explains the interest|and it shows|as one might expect|and most accounts agree on that"
    "|though opinions differ"
    "|and people still talk about it|which mattered a great deal|even if the reasons were simple",
    "ja": "今もよく語られている|多くの人が覚えている|関心を集めている|その評価は変わらない|少し意外でもある|これからも続くだろう",
    "ko": "지금도 자주 이야기된다|많은 사람이 기억한다|관심을 모으고 있다|그 평가는 변하지 않는다|조금 뜻밖이기도 하다|앞으로도 이어질 것이다",
}
DEFAULT_CONTEXT = {"zh": "这件事", "en": "story", "ja": "話題", "ko": "이 일"}

TEMPLATES = {
    "zh": (
        "{x}，{e}是{k}，{f}。",
        "{x}，{e}{a}，{f}。",
        "{e}和{c}放在一起说，{f}！",
        "{x}，又有人聊到{e}，都说{e}{a}。",
        "如果没有{e}，{c}也许就是另外一个样子，{f}。",
        "{x}，因为{c}的关系，{e}又成了大家的话题，{f}。",
        "关于{e}，我知道的不多，只记得是{k}，{a}。",
        "{k}，说的就是{e}，{f}。",
        "在{c}里面，{e}是{k}，{f}。",
        "今天想多说两句{e}，{a}，{f}，{e}就是{k}。",
        "身边聊{c}的人越来越多，{e}自然也被提到了，{f}。",
        "为什么总是提到{e}呢？{x}，{e}是{k}。",
    ),
    "en": (
        "{x}, {e} was {k}, {f}.",
        "{e} is {k}, {f}.",
        "It is worth adding that {e} {a}, {f}.",
        "{x}, {e} {a}.",
        "Here {e} is {k}, closely tied to the {c}.",
        "Without {e} the {c} would have looked different, {f}.",
        "The {c} brought new attention to {e}, {k}.",
        "{e}, {k}, {a}, {f}.",
        "{x}, the link between {e} and the {c} was widely known, {f}.",
        "What made {e} stand out is that {e} {a}.",
        "Much of what is known about {e} comes from the {c}, {f}.",
        "As {k}, {e} {a}.",
        "The role of {e} in the {c} was discussed at length, {f}.",
    ),
    "ja": (
        "{x}、{e}は{k}として知られ、{f}。",
        "{e}は{k}であり、{c}とも深く関わっている。",
        "{x}、{e}は{a}。",
        "ここでいう{e}とは{k}のことで、{f}。",
        "{e}については{a}という声もあり、{f}。",
        "{x}、{c}をきっかけに{e}への関心が高まり、{f}。",
        "{k}である{e}は、{a}。",
    ),
    "ko": (
        "{x} {e}에 대한 이야기가 많았고, {f}.",
        "{e}의 경우는 {k}에 해당하며, {f}.",
        "{x} {e}에 대해서는 {a}.",
        "여기서 말하는 {e}의 뜻은 {k}에 가깝고, {f}.",
        "{x} {c} 때문에 {e}에 대한 관심이 커졌고, {f}.",
        "{k}에 대해 말하자면 {e}만 한 예가 없고, {f}.",
        "{e}에 관해서는 {k} 같은 설명이 따르며, {f}.",
    ),
}

# Only for names: one does not first hear of a mother, or of a Monday.
NAME_TEMPLATES = {
    "zh": (
        "提到{c}，很多人首先会想到{e}，{f}。",
        "我第一次听说{e}，就是因为{c}，{f}。",
        "了解{e}的人都知道，{e}{a}。",
        "你可能没有留意过{e}，{x}，{e}{a}。",
        "有人问{e}到底怎么样，{x}，{a}。",
        "这里说的{e}是{k}，和{c}有不小的关系。",
    ),
    "en": (
        "{x}, the name {e} stood for the {c}, {f}.",
        "Those who know {e} say that {e} {a}.",
        "Readers who have never heard of {e} may think of {k}, {f}.",
        "When people speak of the {c}, they usually mention {e}, {f}.",
        "Several accounts describe {e} as {k}.",
    ),
    "ja": (
        "{c}について語るとき、{e}の名前がよく挙がり、{f}。",
    ),
    "ko": (
        "{c}에 관해 말할 때 {e}도 자주 언급되며, {f}.",
    ),
}

"""Short English word lists of the offline backend. General vocabulary, not taken from any data set."""

from __future__ import annotations

# Capitalised at the start of a sentence or in titles without being names.
FUNCTION_WORDS = frozenset(
    """a about after all also although an and another any are as at be because before being both but by can
    could did do does during each either even every few first for from had has have he her here his how
    however i if in into is it its just later many may more most much my no nor not now of on once one
    only or other our out over she since so some such than that the their them then there these they
    this those though through thus to today two under until up upon was we were what when where which
    while who whose why will with within without would yes yet you your please thanks thank ok okay oh
    well maybe let's let lol according despite among along instead currently originally finally
    eventually additionally""".split()
)
PERSON_TITLES = frozenset(
    """Mr. Mr Mrs. Mrs Ms. Ms Miss Dr. Dr Prof. Professor Sir Lady Lord Dame President Senator Sen. Rep.
    Governor Gov. Mayor Captain Capt. Colonel Col. General Gen. Lieutenant Lt. Sergeant Sgt. Major King
    Queen Prince Princess Pope Saint Judge Justice Minister Ambassador Chancellor Emperor Reverend Rev.
    Father Sister Brother Coach Chairman""".split()
)
ORG_HEADS = frozenset(
    """Inc. Inc Corp. Corp Corporation Company Co. Ltd. Ltd LLC plc PLC GmbH AG Group Holdings Bank
    Airlines Airways Records University College Institute School Academy Association Society Federation
    Foundation Union Council Committee Commission Ministry Department Agency Bureau Office Court
    Parliament Congress Senate Assembly Party League Club FC United Rovers Team Army Navy Force Forces
    Police Regiment Battalion Division Brigade Orchestra Band Choir Museum Library Hospital Church Press
    Times Post Journal Magazine Network Channel Television Radio Studios Pictures Entertainment Systems
    Technologies Industries Motors Laboratories Labs Organization Organisation Authority Board Alliance
    Trust Fund Coalition""".split()
)
LOCATION_HEADS = frozenset(
    """River Lake Sea Ocean Bay Gulf Strait Island Islands Mountain Mountains Mount Hills Hill Valley
    Canyon Desert Forest Park Peninsula Coast Beach Cape Falls Creek Canal Street Avenue Road Boulevard
    Highway Lane Square Bridge Tunnel Station Airport Harbor Harbour Port Castle Palace Tower Cathedral
    Temple Stadium Arena County City Town Village Province State District Region Territory Republic
    Kingdom Empire Heights Plaza Garden Gardens House Hall""".split()
)
LOCATION_STARTS = frozenset(
    """Mount Lake Fort Port Cape San Santa St. North South East West Northern Southern Eastern Western Los
    Las""".split()
)
WORK_HEADS = frozenset(
    """War Wars Battle Revolution Festival Cup Championship Championships Olympics Games Awards Prize
    Tournament Marathon Conference""".split()
)
FIRST_NAMES = frozenset(
    """Adam Alan Albert Alex Alexander Alice Amanda Amy Andrea Andrew Angela Ann Anna Anne Anthony Arthur
    Barbara Ben Benjamin Betty Bill Bob Brian Bruce Carl Carlos Carol Caroline Catherine Charles Chris
    Christian Christine Christopher Claire Daniel David Deborah Dennis Diana Donald Dorothy Edward
    Elizabeth Ellen Emily Emma Eric Eva Evelyn Frank Fred Gary George Gerald Grace Greg Hannah Harold
    Harry Heather Helen Henry Howard Hugh Ian Isabel Jack Jacob James Jane Janet Jason Jean Jeff
    Jennifer Jeremy Jessica Jim Joan Joe John Johnny Jonathan Joseph Joshua Juan Judy Julia Julie Justin
    Karen Karl Kate Keith Kelly Ken Kenneth Kevin Laura Lauren Lawrence Leo Lewis Linda Lisa Louis Lucy
    Luis Luke Margaret Maria Marie Mark Martha Martin Mary Matt Matthew Max Michael Michelle Miguel Mike
    Nancy Natalie Nathan Nick Nicole Nora Oliver Olivia Oscar Pamela Patricia Patrick Paul Peter Philip
    Rachel Ralph Raymond Rebecca Richard Robert Roger Ronald Rose Roy Ruth Ryan Sam Samuel Sandra Sara
    Sarah Scott Sean Sharon Simon Sofia Sophie Stephanie Stephen Steve Steven Stuart Susan Ted Teresa
    Thomas Tim Timothy Tom Tony Victor Victoria Vincent Walter Wayne William""".split()
)
COUNTRIES = frozenset(
    """Afghanistan Albania Algeria Angola Argentina Armenia Australia Austria Azerbaijan Bahrain Bangladesh
    Belarus Belgium Bolivia Bosnia Botswana Brazil Britain Bulgaria Cambodia Cameroon Canada Chad Chile
    China Colombia Croatia Cuba Cyprus Denmark Ecuador Egypt England Estonia Ethiopia Fiji Finland
    France Germany Ghana Greece Guatemala Haiti Honduras Hungary Iceland India Indonesia Iran Iraq
    Ireland Israel Italy Jamaica Japan Jordan Kazakhstan Kenya Kuwait Laos Latvia Lebanon Libya
    Lithuania Luxembourg Madagascar Malaysia Mali Malta Mexico Moldova Mongolia Montenegro Morocco
    Mozambique Myanmar Namibia Nepal Netherlands Nicaragua Niger Nigeria Norway Oman Pakistan Palestine
    Panama Paraguay Peru Philippines Poland Portugal Qatar Romania Russia Rwanda Scotland Senegal Serbia
    Singapore Slovakia Slovenia Somalia Spain Sudan Sweden Switzerland Syria Taiwan Tanzania Thailand
    Tunisia Turkey Uganda Ukraine Uruguay Uzbekistan Venezuela Vietnam Wales Yemen Zambia Zimbabwe U.S.
    USA UK U.K. U.S.A. US""".split()
) | frozenset(
    ("United States", "United Kingdom", "United Arab Emirates", "Saudi Arabia", "South Africa", "South Korea",
     "North Korea", "New Zealand", "Sri Lanka", "Costa Rica", "Czech Republic", "Soviet Union", "Great Britain",
     "Northern Ireland", "United States of America", "Puerto Rico", "El Salvador", "Hong Kong")
)  # fmt: skip
PLACES = frozenset(
    """Alabama Alaska Arizona Arkansas California Colorado Connecticut Delaware Florida Georgia Hawaii
    Idaho Illinois Indiana Iowa Kansas Kentucky Louisiana Maine Maryland Massachusetts Michigan
    Minnesota Mississippi Missouri Montana Nebraska Nevada Ohio Oklahoma Oregon Pennsylvania Tennessee
    Texas Utah Vermont Virginia Wisconsin Wyoming Ontario Quebec London Paris Berlin Madrid Rome Milan
    Vienna Prague Warsaw Moscow Kiev Athens Istanbul Cairo Baghdad Tehran Jerusalem Dubai Mumbai Delhi
    Beijing Shanghai Tokyo Osaka Kyoto Seoul Bangkok Manila Jakarta Sydney Melbourne Toronto Montreal
    Vancouver Chicago Boston Houston Dallas Seattle Denver Detroit Miami Atlanta Philadelphia Baltimore
    Washington Manchester Liverpool Glasgow Edinburgh Dublin Belfast Birmingham Amsterdam Brussels
    Copenhagen Stockholm Oslo Helsinki Lisbon Barcelona Munich Hamburg Frankfurt Zurich Geneva Europe
    Asia Africa America Antarctica Oceania Scandinavia Manhattan Brooklyn Hollywood""".split()
) | frozenset(
    ("New York", "New York City", "Los Angeles", "San Francisco", "San Diego", "Las Vegas", "New Orleans",
     "Washington , D.C.", "North America", "South America", "Latin America", "Middle East", "New Jersey",
     "New Mexico", "New Hampshire", "North Carolina", "South Carolina", "North Dakota", "South Dakota",
     "West Virginia", "Rhode Island", "New Delhi")
)  # fmt: skip
NATIONALITIES = frozenset(
    """Afghan African Albanian Algerian American Arab Arabic Argentine Asian Australian Austrian Bavarian
    Belgian Brazilian British Bulgarian Canadian Catholic Chilean Chinese Christian Colombian Croatian
    Cuban Czech Danish Dutch Egyptian English Estonian European Finnish French German Greek Hindu
    Hungarian Indian Indonesian Iranian Iraqi Irish Islamic Israeli Italian Jamaican Japanese Jewish
    Kenyan Korean Latin Lebanese Libyan Malaysian Mexican Moroccan Muslim Nigerian Norwegian Pakistani
    Palestinian Persian Peruvian Polish Portuguese Roman Romanian Russian Saudi Scottish Serbian Soviet
    Spanish Swedish Swiss Syrian Thai Tibetan Turkish Ukrainian Venezuelan Vietnamese Welsh Americans
    Britons Canadians Germans Russians Europeans Israelis Palestinians Iraqis Italians Indians
    Australians Africans Asians Muslims Christians Jews Catholics Protestant""".split()
)

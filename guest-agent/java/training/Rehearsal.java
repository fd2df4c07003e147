import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.util.Comparator;
import java.util.HexFormat;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.function.Function;
import java.util.stream.Collectors;

/**
 * What an agent runs before its template is taken, and what a copy of the template runs once more before it is put back and waits for
 * a function. It does what most functions do first and what a JVM takes long for the first time: strings put together, lambdas, a
 * stream, a format, a digest.
 */
public class Rehearsal {
    private record Item(String name, int count, double price) {}

    public static Map<String, Object> main(Map<String, Object> arguments) throws Exception {
        List<Item> items = List.of(new Item("b", 2, 1.5), new Item("a", 1, 2.5));
        Function<Item, String> line = item -> item.name() + ": " + item.count() + " for " + item.price();
        String text = items.stream()
                .filter(item -> item.count() > 0)
                .sorted(Comparator.comparing(Item::name))
                .map(line)
                .collect(Collectors.joining(", "));
        Object name = arguments.getOrDefault("name", "world");
        byte[] digest = MessageDigest.getInstance("SHA-256").digest(text.getBytes(StandardCharsets.UTF_8));
        Map<String, Object> result = new LinkedHashMap<>(arguments);
        result.put("message", "Hello, " + name + "!");
        result.put("text", String.format("%s has %d items at %.2f", text, items.size(), items.get(0).price()));
        result.put("digest", HexFormat.of().formatHex(digest));
        return result;
    }
}

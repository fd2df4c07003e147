import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.HexFormat;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** The two functions that are measured. Hydra runs Hello and Page, which call them; so does the JDK's own server. */
final class Work {
    private Work() {}

    /** Greets: what a call costs that does nothing. */
    static Map<String, Object> hello(Map<String, Object> arguments) {
        Map<String, Object> result = new LinkedHashMap<>();
        result.put("message", "Hello, " + arguments.getOrDefault("name", "world") + "!");
        return result;
    }

    /** Builds a table of the items and its digest. */
    static Map<String, Object> page(Map<String, Object> arguments) throws NoSuchAlgorithmException {
        List<?> items = (List<?>) arguments.get("items");
        StringBuilder html = new StringBuilder(4096);
        escape(html.append("<h1>"), arguments.get("title")).append("</h1><table>");
        for (Object each : items) {
            Map<?, ?> item = (Map<?, ?>) each;
            escape(html.append("<tr><td>"), item.get("name")).append("</td><td>");
            money(html, ((Number) item.get("price")).doubleValue()).append("</td><td>");
            html.append(((Number) item.get("count")).longValue()).append("</td><td>");
            escape(html, item.get("note")).append("</td></tr>");
        }
        String text = html.append("</table>").toString();
        byte[] digest = MessageDigest.getInstance("SHA-256").digest(text.getBytes(StandardCharsets.UTF_8));
        Map<String, Object> result = new LinkedHashMap<>();
        result.put("rows", items.size());
        result.put("sha256", HexFormat.of().formatHex(digest));
        result.put("html", text);
        return result;
    }

    /** Two decimals; {@code String.format} would take longer than the rest of the page. */
    private static StringBuilder money(StringBuilder out, double price) {
        long cents = Math.round(price * 100);
        out.append(cents / 100).append('.');
        return cents % 100 < 10 ? out.append('0').append(cents % 100) : out.append(cents % 100);
    }

    private static StringBuilder escape(StringBuilder out, Object value) {
        String text = String.valueOf(value);
        for (int i = 0; i < text.length(); i++) {
            char c = text.charAt(i);
            switch (c) {
                case '&' -> out.append("&amp;");
                case '<' -> out.append("&lt;");
                case '>' -> out.append("&gt;");
                case '"' -> out.append("&quot;");
                case '\'' -> out.append("&#x27;");
                default -> out.append(c);
            }
        }
        return out;
    }
}
